// The instructions of tensor cores and asynchronous copies, one function each; sm_80 and newer. The layouts of fragments are
// those of the PTX ISA, "Matrix fragments for mma.m16n8k16" and "mma.m16n8k8", in 32-bit registers: what ldmatrix gives a
// lane from rows of 32 bytes is what mma takes, be the elements two of 16 bits a register or one of TF32.
//
// A CPU has none of them: where DCNLAB_HOST is defined, the header that defines it has functions of the same names.
#ifndef DCNLAB_HOST

INLINE unsigned shared_address(const void* shared) { return static_cast<unsigned>(__cvta_generic_to_shared(shared)); }

// Four 8x8 matrices of 16-bit elements (or 8x4 of 32): lane 8 m + r names row r of matrix m, 16 bytes in shared memory; lane
// 4 r + c receives the bytes 4 c to 4 c + 3 of row r of each. All lanes of the warp take part.
INLINE void load_matrices(unsigned (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// sum += a b over 32 bytes of depth: a has 16 rows, b 8 columns. All lanes of the warp take part.
template <class T>
INLINE void multiply_add(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

#define MULTIPLY_ADD(T, form)                                                                               \
    template <>                                                                                             \
    INLINE void multiply_add<T>(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {          \
        asm volatile("mma.sync.aligned." form " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                     : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                               \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                   \
    }
MULTIPLY_ADD(__half, "m16n8k16.row.col.f32.f16.f16.f32")
MULTIPLY_ADD(__nv_bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MULTIPLY_ADD(float, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef MULTIPLY_ADD

// The nearest TF32 number, as mma wants its operands.
INLINE float to_tf32(float value) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return __uint_as_float(bits);
}

// Copies 16 bytes to shared memory, or writes zeros there; they may arrive as late as this thread's wait_for_copies, and
// other threads see them after the next barrier.
INLINE void copy_async(void* shared, const void* from, bool whole) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(shared)), "l"(__cvta_generic_to_global(from)), "r"(whole ? 16 : 0)
                 : "memory");
}
INLINE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

#endif
