// In the place of `cuda_kernels/mma.cuh` on a CPU: the same functions, by the definitions of the PTX ISA.
//
// A warp's instruction waits for all 32 lanes, then works on what each has handed over, so a fragment that the kernel lays out
// in another way than the ISA gives wrong numbers. Copies arrive as late as they may, at the thread's wait, and until then their
// target is NaN; what is on its way when a thread returns never arrives. Not shown: conflicts of banks, and how the tensor
// core rounds within a sum (here float, in order).
#pragma once

#include "host_cuda.h"

#define DCNLAB_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace dcnlab_host {

// What one lane of a warp gives and takes.
struct MatrixRows {
    const void* row;
    unsigned* out;
};
struct Product {
    float* sum;
    const unsigned *a, *b;
};

// ldmatrix: row r of matrix m is lane 8 m + r's; its bytes 4 c to 4 c + 3 go to lane 4 r + c.
inline void load_matrices(void* const (&lanes)[32]) {
    for (int matrix = 0; matrix < 4; ++matrix) {
        for (int row = 0; row < 8; ++row) {
            const int4 bytes = *static_cast<const int4*>(static_cast<MatrixRows*>(lanes[8 * matrix + row])->row);
            const int columns[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
            for (int column = 0; column < 4; ++column)
                static_cast<MatrixRows*>(lanes[4 * row + column])->out[matrix] = unsigned(columns[column]);
        }
    }
}

// One element of a register: of two 16-bit ones the lower comes first. TF32 leaves out a float's last 13 bits.
inline float element(unsigned bits, int which, __half) { return half_to_float(uint16_t(bits >> 16 * which)); }
inline float element(unsigned bits, int which, __nv_bfloat16) { return bfloat16_to_float(uint16_t(bits >> 16 * which)); }
inline float element(unsigned bits, int, float) { return bit_cast<float>(bits & ~0x1fffu); }

// mma.m16n8k16 and, for float, m16n8k8 in TF32: `each` elements stand in a register. In the ISA's words groupID = lane / 4 and
// threadID_in_group = lane % 4.
//   a: row groupID for a0, a1, a4, a5, groupID + 8 for a2, a3, a6, a7; column 2 threadID + i % 2, + 8 from a4 on
//   b: row 2 threadID + i % 2, + 8 from b2 on; column groupID
//   c: row groupID for c0, c1, groupID + 8 for c2, c3; column 2 threadID + i % 2
// In TF32 a: row groupID for a0, a2, groupID + 8 for a1, a3; column threadID, + 4 from a2 on. b: row threadID, + 4 for b1.
template <class T>
void multiply_add(void* const (&lanes)[32]) {
    constexpr int each = 4 / sizeof(T), depth = 8 * each;
    float a[16][depth], b[depth][8];
    for (int lane = 0; lane < 32; ++lane) {
        const Product& given = *static_cast<const Product*>(lanes[lane]);
        for (int i = 0; i < 4 * each; ++i)
            a[lane / 4 + i / each % 2 * 8][lane % 4 * each + i % each + i / (2 * each) * (depth / 2)] =
                element(given.a[i / each], i % each, T());
        for (int i = 0; i < 2 * each; ++i)
            b[lane % 4 * each + i % each + i / each * (depth / 2)][lane / 4] = element(given.b[i / each], i % each, T());
    }
    for (int lane = 0; lane < 32; ++lane) {
        const Product& given = *static_cast<const Product*>(lanes[lane]);
        for (int i = 0; i < 4; ++i)
            for (int k = 0; k < depth; ++k)
                given.sum[i] += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
    }
}

}  // namespace dcnlab_host

inline void load_matrices(unsigned (&out)[4], const void* row, DCNLAB_SITE) {
    dcnlab_host::check_shared(row, 16, {file, line});
    dcnlab_host::MatrixRows lane = {row, out};
    dcnlab_host::warp_collective(dcnlab_host::load_matrices, &lane, {file, line});
}
template <class T>
void multiply_add(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2], DCNLAB_SITE) {
    dcnlab_host::Product lane = {sum, a, b};
    dcnlab_host::warp_collective(dcnlab_host::multiply_add<T>, &lane, {file, line});
}
// To nearest, ties away from zero.
inline float to_tf32(float value) {
    const unsigned bits = dcnlab_host::bit_cast<unsigned>(value);
    return isfinite(value) ? dcnlab_host::bit_cast<float>((bits + 0x1000u) & ~0x1fffu) : value;
}
inline void copy_async(void* shared, const void* from, bool whole, DCNLAB_SITE) {
    dcnlab_host::check_shared(shared, 16, {file, line});
    dcnlab_host::copy_later(static_cast<int4*>(shared), whole ? static_cast<const int4*>(from) : nullptr);
}
inline void wait_for_copies() { dcnlab_host::copy_now(); }

#undef DCNLAB_SITE
