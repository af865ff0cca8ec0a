// What every kernel shares. One text is compiled: a generated prelude (scalar_t: the tensors' elements; real: coordinates
// and sums, float or double; index_t: int or long long; VEC: elements of one 16-byte load, or 1), this file, a kernel file.

#define INLINE __device__ __forceinline__

// VEC neighbouring channels, moved as one load or store.
struct alignas(sizeof(scalar_t) * VEC) Pack {
    scalar_t value[VEC];
};

INLINE float to_real(float v) { return v; }
INLINE double to_real(double v) { return v; }
INLINE float to_real(__half v) { return __half2float(v); }
INLINE float to_real(__nv_bfloat16 v) { return __bfloat162float(v); }

INLINE void assign(float& out, float v) { out = v; }
INLINE void assign(double& out, double v) { out = v; }
INLINE void assign(__half& out, float v) { out = __float2half_rn(v); }
INLINE void assign(__nv_bfloat16& out, float v) { out = __float2bfloat16_rn(v); }

INLINE Pack load(const scalar_t* from) { return *reinterpret_cast<const Pack*>(from); }
INLINE void store(scalar_t* to, const Pack& pack) { *reinterpret_cast<Pack*>(to) = pack; }

INLINE float floor_of(float v) { return floorf(v); }
INLINE double floor_of(double v) { return floor(v); }

// A divisor known before the launch: dividing 0 <= n < 2^31 takes a multiplication and a shift (Granlund and Montgomery,
// 1994), a sixth of a division's instructions. Where indices are wide, they are divided.
struct Divisor {
    long long value;
    unsigned multiplier;
    int shift;
};

INLINE int divide(int n, const Divisor& by) {
    return int((__umulhi(unsigned(n), by.multiplier) + unsigned(n)) >> by.shift);
}
INLINE long long divide(long long n, const Divisor& by) { return n / by.value; }

// Four pixels around a place, their bilinear weights, the fractions, and which corners lie on the map (bits 0 to 3 for
// above-left, above-right, below-left, below-right). A corner off the map weighs nothing and repeats one that is read
// anyway, so that every address is valid. No bits: nothing is read there.
struct Corners {
    int bits;
    index_t pixel[4];
    real weight[4];
    real fraction_y, fraction_x;
};

// The rule of the modulated operator (and of torchvision): a place is read where -1 < y < height and -1 < x < width, and
// pixels off the map are zero. NaN fails the test, so it never reaches the conversion to int.
INLINE Corners corners_of(real y, real x, int height, int width) {
    Corners c = {};
    if (!(y > real(-1) && y < real(height) && x > real(-1) && x < real(width))) return c;
    const real top = floor_of(y), left = floor_of(x);
    c.fraction_y = y - top;
    c.fraction_x = x - left;
    const int row = int(top), column = int(left);
    const bool above = row >= 0, below = row + 1 < height, before = column >= 0, behind = column + 1 < width;
    const int low_row = above ? row : 0, high_row = below ? row + 1 : height - 1;
    const int low_column = before ? column : 0, high_column = behind ? column + 1 : width - 1;
    c.bits = int(above && before) | int(above && behind) << 1 | int(below && before) << 2 | int(below && behind) << 3;
    c.pixel[0] = index_t(low_row) * width + low_column;
    c.pixel[1] = index_t(low_row) * width + high_column;
    c.pixel[2] = index_t(high_row) * width + low_column;
    c.pixel[3] = index_t(high_row) * width + high_column;
    const real rest_y = real(1) - c.fraction_y, rest_x = real(1) - c.fraction_x;
    c.weight[0] = c.bits & 1 ? rest_y * rest_x : real(0);
    c.weight[1] = c.bits & 2 ? rest_y * c.fraction_x : real(0);
    c.weight[2] = c.bits & 4 ? c.fraction_y * rest_x : real(0);
    c.weight[3] = c.bits & 8 ? c.fraction_y * c.fraction_x : real(0);
    return c;
}
