// Deformable convolution's output in one kernel, an implicit GEMM (groups = 1): columns are sampled into shared memory and
// multiplied there by tensor cores, so that they never go to memory. deform_conv2d.cu has the other way, and the gradients.
//
//   array     shape                                    meaning
//   pixels    (N, H, W, C)                             input map
//   shift     (N, 2 * offset groups * taps, Ho, Wo)    offsets, y before x
//   mask      (N, offset groups * taps, Ho, Wo)        modulation, or null
//   filters   (F, taps, C)                             weight
//   bias      (F)                                      or null
//   output    (N, Ho, Wo, F)
//
// A block computes TILE output pixels by TILE filters. The depth, taps times channels, comes in slices of 128 bytes: up to
// SLICE channels of one offset group at one tap. While a slice is multiplied, the next one's columns are sampled, its filters
// copied, and the places found at which the slice after that reads. C / offset groups and F are multiples of VEC, the
// elements of 16 bytes; what lies beyond them in a slice or a tile is zero.

constexpr int PACKS = 8;            // 16-byte packs of a row of a slice
constexpr int SLICE = PACKS * VEC;  // channels
constexpr int PARTS = 4;            // of a slice, multiplied one by one: 32 bytes of depth, and a quarter of the next one's rows
constexpr int ROWS = TILE / PARTS;  // rows that the block fills at a time, PACKS threads each
constexpr int STRIPS = TILE / 32;   // 16 pixels each; a warp has half the tile's pixels and 32 filters
static_assert(THREADS == 2 * TILE && VEC * sizeof(scalar_t) == 16);

// Where a column reads: elements of `pixels` at its offset group's first channel, or -1 where the corner is off the map and
// is not read, and the corners' weights.
struct alignas(16) Place {
    index_t at[4];
    real weight[4];
};

struct Shared {
    Pack columns[2][TILE * PACKS], filters[2][TILE * PACKS];
    Place places[2][TILE];
    real factors[2][TILE];  // the mask's value at each place, which multiplies the blended pixels: it may be infinite
};
static_assert(sizeof(Shared) == SHARED_BYTES && TILE * TILE / VEC <= 4 * TILE * PACKS, "the output is staged in their place");

// Where a pack of a row stands: packs change places from row to row, so that eight rows of one pack are in eight different
// groups of banks, and so are eight packs of one row.
INLINE int swizzled(int row, int pack, int packs_of_row = PACKS) { return row * packs_of_row + (pack ^ (row & 7)); }

struct Slice {
    int tap = 0, offset_group = 0, channel = 0;  // the first one, within the offset group
    int places = 0;                              // which of the two sets of places it reads by

    INLINE Slice next(const Sizes& s) const {
        Slice n = *this;
        n.channel += SLICE;
        if (n.channel < s.channels / s.offset_groups) return n;
        n.channel = 0;
        n.places ^= 1;
        if (++n.offset_group < s.offset_groups) return n;
        n.offset_group = 0;
        ++n.tap;
        return n;
    }
};

// An offset and the mask's value there: read early, used late.
struct Shift {
    real y, x, scale;
};
INLINE Shift shift_of(const Row& row, const Sizes& s, const real* shift, const real* mask) {
    const index_t at = row.at_shift_y(s);
    return {shift[at], shift[at + row.area], mask != nullptr ? mask[row.at_mask(s)] : real(1)};
}

INLINE Place place_of(const Row& row, const Sizes& s, const Shift& shift, bool exists, real& factor) {
    const Corners c = row.corners(s, shift.y, shift.x);
    const index_t map = row.image * s.height * s.width;
    const int channel = row.offset_group * (s.channels / s.offset_groups);
    Place place;
    for (int k = 0; k < 4; ++k) {
        const bool reads = exists && c.bits >> k & 1;
        place.at[k] = reads ? (map + c.pixel[k]) * s.channels + channel : index_t(-1);
        place.weight[k] = reads ? c.weight[k] : real(0);
    }
    factor = exists && c.bits ? shift.scale : real(0);
    return place;
}

INLINE void copy_filters(Pack* to, const scalar_t* filters, const Sizes& s, const Slice& slice, int first, int count) {
    const int taps = s.kernel_height * s.kernel_width, per_offset_group = s.channels / s.offset_groups;
    const int pack = threadIdx.x % PACKS, channel = slice.channel + pack * VEC;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        const int row = part * ROWS + threadIdx.x / PACKS;
        const bool exists = first + row < count && channel < per_offset_group;
        const index_t line = index_t(first + row) * taps + slice.tap;
        const index_t from = line * s.channels + slice.offset_group * per_offset_group + channel;
        copy_async(&to[swizzled(row, pack)], filters + (exists ? from : 0), exists);
    }
}

// A pack as it comes, in four registers: taken apart only when the product that hides its way has been issued.
struct alignas(16) Words {
    unsigned word[4];
};
INLINE float widened(unsigned word, int, float) { return __uint_as_float(word); }
INLINE float widened(unsigned word, int i, __half) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16 * i)));
}
INLINE float widened(unsigned word, int i, __nv_bfloat16) {
    return __uint_as_float(i == 0 ? word << 16 : word & 0xffff0000u);
}

INLINE void read_corners(Words (&corner)[4], const scalar_t* pixels, const Place& place, int channel, bool exists) {
    index_t at[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) at[k] = place.at[k];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        corner[k] = Words{};
        if (exists && at[k] >= 0) corner[k] = *reinterpret_cast<const Words*>(pixels + at[k] + channel);
    }
}

// Zero beyond the last channel, whatever the factor.
INLINE Pack blend(const Words (&corner)[4], const Place& place, real factor, bool exists) {
    constexpr int each = VEC / 4;  // elements of a word
    Pack out = {};
    if (!exists) return out;
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
        real sum = 0;
#pragma unroll
        for (int k = 0; k < 4; ++k) sum += place.weight[k] * widened(corner[k].word[i / each], i % each, scalar_t());
        sum *= factor;
        if constexpr (sizeof(scalar_t) == 4) sum = to_tf32(sum);
        assign(out.value[i], sum);
    }
    return out;
}

// The warp's share of one part of a slice. `sum` is what mma keeps of 16 pixels by 8 filters: this lane's are the pixels
// lane / 4 and lane / 4 + 8, and of each the filters 2 (lane % 4) and the one after.
INLINE void multiply(float (&sum)[STRIPS][4][4], const Pack* columns, const Pack* filters, int part) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = warp % 2 * (TILE / 2), first_filter = warp / 2 * 32;
    __syncwarp();  // the instructions of tensor cores want the warp together
    unsigned b[4][2];
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
        unsigned found[4];
        const int row = first_filter + pair * 16 + lane / 16 * 8 + lane % 8;
        load_matrices(found, &filters[swizzled(row, 2 * part + lane / 8 % 2)]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            b[2 * pair + i / 2][i % 2] = found[i];
            if constexpr (sizeof(scalar_t) == 4)
                b[2 * pair + i / 2][i % 2] = __float_as_uint(to_tf32(__uint_as_float(found[i])));
        }
    }
#pragma unroll
    for (int strip = 0; strip < STRIPS; ++strip) {
        unsigned a[4];
        load_matrices(a, &columns[swizzled(first_row + strip * 16 + lane % 16, 2 * part + lane / 16)]);
#pragma unroll
        for (int n = 0; n < 4; ++n) multiply_add<scalar_t>(sum[strip][n], a, b[n]);
    }
}

struct alignas(2 * sizeof(scalar_t)) Pair {
    scalar_t value[2];
};

// Adds the bias, rounds, and lays the tile out in shared memory, to be written 16 bytes a thread.
INLINE void write(const float (&sum)[STRIPS][4][4], Pack* staged, const scalar_t* bias, scalar_t* output,
                  index_t first_pixel, long long pixels, int first_filter, int count) {
    constexpr int packs = TILE / VEC;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
        const int filter = warp / 2 * 32 + n * 8 + lane % 4 * 2;
        float add[2] = {};
        for (int i = 0; i < 2; ++i)
            if (bias != nullptr && first_filter + filter < count) add[i] = to_real(bias[first_filter + filter + i]);
#pragma unroll
        for (int half = 0; half < 2 * STRIPS; ++half) {
            const int row = warp % 2 * (TILE / 2) + half * 8 + lane / 4;
            Pair pair;
            for (int i = 0; i < 2; ++i) assign(pair.value[i], sum[half / 2][n][half % 2 * 2 + i] + add[i]);
            Pack& pack = staged[swizzled(row, filter / VEC, packs)];
            *reinterpret_cast<Pair*>(&pack.value[filter % VEC]) = pair;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE * packs; i += THREADS) {
        const int row = i / packs, filter = first_filter + i % packs * VEC;
        if (first_pixel + row < pixels && filter < count)
            store(output + (first_pixel + row) * count + filter, staged[swizzled(row, i % packs, packs)]);
    }
}

// Blocks: tile of pixels by tile of filters, the latter first, so that blocks that run at once read the same pixels.
extern "C" __global__ void __launch_bounds__(THREADS, 256 / TILE)
fused(const scalar_t* __restrict__ pixels, const real* __restrict__ shift, const real* __restrict__ mask,
      const scalar_t* __restrict__ filters, const scalar_t* __restrict__ bias, scalar_t* __restrict__ output, Sizes s,
      long long count, int out_channels) {
    extern __shared__ __align__(16) unsigned char memory[];
    Shared& shared = *reinterpret_cast<Shared*>(memory);
    const int thread = threadIdx.x, tiles = (out_channels + TILE - 1) / TILE;
    const int taps = s.kernel_height * s.kernel_width, channels = s.channels / s.offset_groups;
    const int first_filter = int(blockIdx.x % tiles) * TILE;
    const index_t first_pixel = index_t(blockIdx.x / tiles) * TILE;
    float sum[STRIPS][4][4] = {};

    // The first TILE threads find the places, each those of one pixel. Rows are made anew, for they are many registers.
    const index_t my_pixel = first_pixel + thread;
    const bool exists = my_pixel < count;
    const auto row_of = [&](const Slice& slice) { return Row(s, exists ? my_pixel : 0, slice.tap, slice.offset_group); };

    // `next` is the slice to be sampled, into set `step % 2`; `after` follows it; the one before it lies in the other set.
    Slice next;
    if (thread < TILE) {
        const Shift first = shift_of(row_of(next), s, shift, mask);
        shared.places[0][thread] = place_of(row_of(next), s, first, exists, shared.factors[0][thread]);
    }
    __syncthreads();
    for (int step = 0;; ++step, next = next.next(s)) {
        const Slice after = next.next(s);
        const bool samples = next.tap < taps, finds = after.tap < taps && after.channel == 0 && thread < TILE;
        Pack *to = shared.columns[step % 2], *from = shared.columns[1 - step % 2];
        if (samples) copy_filters(shared.filters[step % 2], filters, s, next, first_filter, out_channels);
        Shift found = {};
        if (finds) found = shift_of(row_of(after), s, shift, mask);
#pragma unroll 1  // four copies of this would not fit the registers
        for (int part = 0; part < PARTS; ++part) {
            const int row = part * ROWS + thread / PACKS, pack = thread % PACKS;
            const Place& place = shared.places[next.places][row];
            const int channel = next.channel + pack * VEC;
            Words corner[4];
            if (samples) read_corners(corner, pixels, place, channel, channel < channels);
            if (step > 0) multiply(sum, from, shared.filters[1 - step % 2], part);
            const real factor = shared.factors[next.places][row];
            if (samples) to[swizzled(row, pack)] = blend(corner, place, factor, channel < channels);
        }
        if (finds)
            shared.places[after.places][thread] = place_of(row_of(after), s, found, exists, shared.factors[after.places][thread]);
        wait_for_copies();
        __syncthreads();
        if (!samples) break;
    }
    write(sum, reinterpret_cast<Pack*>(memory), bias, output, first_pixel, count, first_filter, out_channels);
}
