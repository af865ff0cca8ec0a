// CUDA C++ for g++: enough of the language for our kernels' text to run on the CPU.
//
// Every thread of a block is a fiber (host_runtime.cpp) that runs until it waits at a barrier, waits in a warp operation, or
// returns. Blocks run one after another, so a kernel that waits for another block never ends.
// Stricter than CUDA on purpose: half types have no arithmetic and convert only explicitly, min and max take two equal types.
#pragma once

#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmath>
#include <cstdio>
#include <type_traits>

#define DCNLAB_HOST 1

// ---- Vector types -----------------------------------------------------------------------------------------------------

#define DCNLAB_VECTOR2(T, name, bytes)                                        \
    struct alignas(bytes) name { T x, y; };                                   \
    inline name make_##name(T x, T y) { return {x, y}; }
#define DCNLAB_VECTOR3(T, name)                                               \
    struct name { T x, y, z; };                                               \
    inline name make_##name(T x, T y, T z) { return {x, y, z}; }
#define DCNLAB_VECTOR4(T, name, bytes)                                        \
    struct alignas(bytes) name { T x, y, z, w; };                             \
    inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }

DCNLAB_VECTOR2(short, short2, 4)
DCNLAB_VECTOR2(unsigned short, ushort2, 4)
DCNLAB_VECTOR2(int, int2, 8)
DCNLAB_VECTOR2(unsigned, uint2, 8)
DCNLAB_VECTOR2(float, float2, 8)
DCNLAB_VECTOR2(long long, longlong2, 16)
DCNLAB_VECTOR2(unsigned long long, ulonglong2, 16)
DCNLAB_VECTOR2(double, double2, 16)
DCNLAB_VECTOR3(int, int3)
DCNLAB_VECTOR3(unsigned, uint3)
DCNLAB_VECTOR3(float, float3)
DCNLAB_VECTOR4(short, short4, 8)
DCNLAB_VECTOR4(unsigned short, ushort4, 8)
DCNLAB_VECTOR4(int, int4, 16)
DCNLAB_VECTOR4(unsigned, uint4, 16)
DCNLAB_VECTOR4(float, float4, 16)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// ---- What the runtime does --------------------------------------------------------------------------------------------

// Written by the runtime each time it switches threads.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace dcnlab_host {

enum class Op { syncwarp, shuffle, shuffle_up, shuffle_down, shuffle_xor, ballot, match, collective };

struct Site {
    const char* file;
    int line;
};

void block_barrier(Site site);
uint64_t warp_operation(Op op, unsigned mask, uint64_t value, int operand, int width, Site site);

// Waits for all 32 lanes of the warp, which must exist, and calls `together` once with what each has handed over.
using Collective = void (*)(void* const (&lanes)[32]);
void warp_collective(Collective together, void* lane, Site site);

// A copy of 16 bytes, or of zeros, that arrives when its thread calls copy_now; until then the target holds 0xFF.
void copy_later(int4* to, const int4* from);
void copy_now();

// Stops the launch if this is not shared memory of the block.
void check_shared(const void* address, size_t bytes, Site site);

// Shared memory of the running block. `key` tells declarations (and template instances) apart; a new block finds all of it
// filled with 0xFF, which is NaN.
void* shared_memory(const void* key, size_t bytes, size_t alignment);
void* dynamic_shared_memory();

// The alignment comes apart from the type, for a template argument loses its attributes.
template <class T, class Key>
T& shared_variable(size_t alignment, Key) {
    static const char key = 0;
    return *static_cast<T*>(shared_memory(&key, sizeof(T), alignment));
}

template <class T>
uint64_t to_bits(T value) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "warp operations move at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    return bits;
}

template <class To, class From>
To bit_cast(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    memcpy(&result, &value, sizeof(To));
    return result;
}

template <class T>
T shuffle(Op op, unsigned mask, T value, int operand, int width, Site site) {
    const uint64_t bits = warp_operation(op, mask, to_bits(value), operand, width, site);
    T result;
    memcpy(&result, &bits, sizeof(T));
    return result;
}

}  // namespace dcnlab_host

// The default arguments name the caller's place: threads that wait at two different barriers have diverged.
#define DCNLAB_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(DCNLAB_SITE) { dcnlab_host::block_barrier({file, line}); }
inline void __syncwarp(unsigned mask = 0xffffffffu, DCNLAB_SITE) {
    dcnlab_host::warp_operation(dcnlab_host::Op::syncwarp, mask, 0, 0, 32, {file, line});
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, DCNLAB_SITE) {
    return dcnlab_host::shuffle(dcnlab_host::Op::shuffle, mask, value, source, width, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, DCNLAB_SITE) {
    return dcnlab_host::shuffle(dcnlab_host::Op::shuffle_up, mask, value, int(delta), width, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, DCNLAB_SITE) {
    return dcnlab_host::shuffle(dcnlab_host::Op::shuffle_down, mask, value, int(delta), width, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, DCNLAB_SITE) {
    return dcnlab_host::shuffle(dcnlab_host::Op::shuffle_xor, mask, value, lane_mask, width, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, DCNLAB_SITE) {
    return unsigned(dcnlab_host::warp_operation(dcnlab_host::Op::ballot, mask, predicate != 0, 0, 32, {file, line}));
}
inline int __any_sync(unsigned mask, int predicate, DCNLAB_SITE) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, DCNLAB_SITE) {
    return __ballot_sync(mask, predicate == 0, file, line) == 0;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, DCNLAB_SITE) {
    const uint64_t bits = dcnlab_host::to_bits(value);
    return unsigned(dcnlab_host::warp_operation(dcnlab_host::Op::match, mask, bits, 0, 32, {file, line}));
}
#undef DCNLAB_SITE

inline void __threadfence() {}
inline void __threadfence_block() {}
[[noreturn]] inline void __trap() { __builtin_trap(); }

// ---- Atomics: one thread runs at a time --------------------------------------------------------------------------------

#define DCNLAB_ATOMIC(name, T, expression) \
    inline T name(T* address, T value) {   \
        const T old = *address;            \
        *address = expression;             \
        return old;                        \
    }
#define DCNLAB_ATOMICS(T)                                       \
    DCNLAB_ATOMIC(atomicAdd, T, static_cast<T>(old + value))                 \
    DCNLAB_ATOMIC(atomicExch, T, value)                         \
    DCNLAB_ATOMIC(atomicMin, T, value < old ? value : old)      \
    DCNLAB_ATOMIC(atomicMax, T, value > old ? value : old)      \
    DCNLAB_ATOMIC(atomicOr, T, static_cast<T>(old | value))                  \
    DCNLAB_ATOMIC(atomicAnd, T, static_cast<T>(old & value))                 \
    inline T atomicCAS(T* address, T compare, T value) {        \
        const T old = *address;                                 \
        if (old == compare) *address = value;                   \
        return old;                                             \
    }
DCNLAB_ATOMICS(int)
DCNLAB_ATOMICS(unsigned)
DCNLAB_ATOMICS(unsigned long long)
DCNLAB_ATOMIC(atomicAdd, float, old + value)
DCNLAB_ATOMIC(atomicAdd, double, old + value)
DCNLAB_ATOMIC(atomicSub, int, old - value)
DCNLAB_ATOMIC(atomicSub, unsigned, old - value)
DCNLAB_ATOMIC(atomicExch, float, value)

// ---- Loads, stores and bits ---------------------------------------------------------------------------------------------

template <class T> T __ldg(const T* address) { return *address; }
template <class T> T __ldca(const T* address) { return *address; }
template <class T> T __ldcg(const T* address) { return *address; }
template <class T> T __ldcs(const T* address) { return *address; }
template <class T> void __stcg(T* address, T value) { *address = value; }
template <class T> void __stcs(T* address, T value) { *address = value; }

inline int __float_as_int(float x) { return dcnlab_host::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return dcnlab_host::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return dcnlab_host::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return dcnlab_host::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return dcnlab_host::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return dcnlab_host::bit_cast<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned((uint64_t(x) * y) >> 32); }

// ---- Arithmetic -----------------------------------------------------------------------------------------------------------

using std::isfinite;
using std::isinf;
using std::isnan;

// A float of NaN loses against a number, as on the GPU; std::min would return whichever comes first.
template <class T>
constexpr T min(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) return std::fmin(a, b);
    else return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) return std::fmax(a, b);
    else return a < b ? b : a;
}

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __saturatef(float a) { return a >= 0 ? (a <= 1 ? a : 1.0f) : 0.0f; }
inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
inline double rsqrt(double a) { return 1.0 / sqrt(a); }

namespace dcnlab_host {
// The GPU's conversion: NaN gives 0, and what does not fit the nearest that does.
inline int saturating_int(double x) {
    return isnan(x) ? 0 : x >= 2147483647.0 ? INT_MAX : x <= -2147483648.0 ? INT_MIN : int(x);
}
}  // namespace dcnlab_host
inline int __float2int_rd(float x) { return dcnlab_host::saturating_int(std::floor(x)); }
inline int __float2int_ru(float x) { return dcnlab_host::saturating_int(std::ceil(x)); }
inline int __float2int_rn(float x) { return dcnlab_host::saturating_int(std::rint(x)); }
inline int __float2int_rz(float x) { return dcnlab_host::saturating_int(std::trunc(x)); }
inline int __double2int_rd(double x) { return dcnlab_host::saturating_int(std::floor(x)); }
inline int __double2int_ru(double x) { return dcnlab_host::saturating_int(std::ceil(x)); }
inline int __double2int_rn(double x) { return dcnlab_host::saturating_int(std::rint(x)); }
inline int __double2int_rz(double x) { return dcnlab_host::saturating_int(std::trunc(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __double2float_rn(double x) { return float(x); }

// ---- Half precision ---------------------------------------------------------------------------------------------------------

namespace dcnlab_host {

// float to 16 bits, to nearest, ties to even; every NaN becomes 0x7fff as on the GPU.
inline uint16_t float_to_half(float x) {
    const uint32_t bits = bit_cast<uint32_t>(x), size = bits & 0x7fffffffu;
    const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
    if (size > 0x7f800000u) return 0x7fff;
    if (size >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // 65520 and more round to infinity
    if (size < 0x38800000u) {                                  // subnormal: the sum's last bit is worth 2^-24
        const float sum = bit_cast<float>(size) + 0.5f;
        return uint16_t(sign | (bit_cast<uint32_t>(sum) - 0x3f000000u));
    }
    return uint16_t(sign | ((size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13));
}
inline float half_to_float(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16, size = bits & 0x7fffu;
    if (size >= 0x7c00u) return bit_cast<float>(sign | 0x7f800000u | ((size & 0x3ffu) << 13));
    if (size >= 0x0400u) return bit_cast<float>(sign | ((size << 13) + 0x38000000u));
    const float value = float(size) * 5.9604644775390625e-8f;
    return sign ? -value : value;
}
inline uint16_t float_to_bfloat16(float x) {
    const uint32_t bits = bit_cast<uint32_t>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline float bfloat16_to_float(uint16_t bits) { return bit_cast<float>(uint32_t(bits) << 16); }

}  // namespace dcnlab_host

#define DCNLAB_HALF(type, encode, decode)                                                     \
    struct alignas(2) type {                                                                  \
        uint16_t bits;                                                                        \
        type() = default;                                                                     \
        explicit type(float x) : bits(dcnlab_host::encode(x)) {}                              \
        explicit operator float() const { return dcnlab_host::decode(bits); }                 \
    };                                                                                        \
    struct alignas(4) type##2 {                                                               \
        type x, y;                                                                            \
    };
DCNLAB_HALF(__half, float_to_half, half_to_float)
DCNLAB_HALF(__nv_bfloat16, float_to_bfloat16, bfloat16_to_float)
using half = __half;
using half2 = __half2;

inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline float __half2float(__half x) { return float(x); }
inline __half __ushort_as_half(unsigned short x) { return dcnlab_host::bit_cast<__half>(x); }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float22half2_rn(float2 x) { return {__half(x.x), __half(x.y)}; }
inline float2 __half22float2(__half2 x) { return {float(x.x), float(x.y)}; }
inline float __low2float(__half2 x) { return float(x.x); }
inline float __high2float(__half2 x) { return float(x.y); }

inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return float(x); }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return dcnlab_host::bit_cast<__nv_bfloat16>(x); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 x) { return {__nv_bfloat16(x.x), __nv_bfloat16(x.y)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 x) { return {float(x.x), float(x.y)}; }
inline float __low2float(__nv_bfloat162 x) { return float(x.x); }
inline float __high2float(__nv_bfloat162 x) { return float(x.y); }

// ---- The words of the language; last, because the standard headers use some of them as names ---------------------------------

#define __global__
#define __device__
#define __host__
#ifdef DCNLAB_COUNTED  // one place of the code for each instruction
#define __forceinline__ inline __attribute__((always_inline))
#else
#define __forceinline__ inline
#endif
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__
// `__shared__` has no macro: the runner rewrites its declarations into calls of shared_variable and dynamic_shared_memory.

#include "host_mma.h"
