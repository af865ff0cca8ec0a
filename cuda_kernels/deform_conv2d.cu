// Deformable convolution (paper, section 2.1; modulated: DCN v2, section 2.1): everything but the matrix products.
//
// columns = S X, with S sparse: a row for each (output pixel, tap, offset group), four entries, the same for all channels
// of the offset group. A row's place and weights are therefore computed once, not once a channel; maps are channels-last
// and channels are read 16 bytes a thread. The gradient of X is S^T times the columns' gradient: the entries, sorted by
// input pixel, are gathered in a fixed order, without atomics.
//
//   array         shape                                       meaning
//   pixels        (N, H, W, C)                                input map
//   shift         (N, 2 * offset groups * taps, Ho, Wo)       offsets, y before x
//   mask          (N, offset groups * taps, Ho, Wo)           modulation, or null
//   columns       (pixels of the chunk, groups, taps, C / groups)
//   keys, weight  (rows, 4)                                   input pixel (by offset group) and weight of every entry
//
// A chunk is a run of output pixels, counted over the batch from `start`; `rows` = its pixels * taps * offset groups.

// Rows are numbered pixel by pixel, tap by tap, offset group by offset group; a line is (pixel, tap).
INLINE index_t line_of(const Sizes& s, index_t row) { return s.offset_groups == 1 ? row : row / s.offset_groups; }
INLINE int offset_group_of(const Sizes& s, index_t row) { return s.offset_groups == 1 ? 0 : int(row % s.offset_groups); }

// Where a channel of a line stands in the columns. VEC channels never straddle two groups.
INLINE index_t column(const Sizes& s, index_t line, int channel) {
    if (s.groups == 1) return line * s.channels + channel;
    const int taps = s.kernel_height * s.kernel_width, per_group = s.channels / s.groups;
    const index_t pixel = line / taps;
    const int group = channel / per_group;
    return ((pixel * s.groups + group) * taps + (line - pixel * taps)) * per_group + (channel - group * per_group);
}

INLINE Row row_of(const Sizes& s, index_t start, index_t row) {
    const int taps = s.kernel_height * s.kernel_width;
    const index_t line = line_of(s, row);
    return Row(s, start + line / taps, int(line % taps), offset_group_of(s, row));
}

// Threads: x over the channels of an offset group, VEC each; y over rows. ROWS rows a block, whose places are found once
// by its first threads and shared.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
sample(const scalar_t* __restrict__ pixels, const real* __restrict__ shift, const real* __restrict__ mask,
       scalar_t* __restrict__ columns, Sizes s, long long start, long long rows) {
    __shared__ Corners places[ROWS];
    __shared__ index_t image_of[ROWS];
    const index_t first = index_t(blockIdx.x) * ROWS;
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    if (thread < ROWS && first + thread < rows) {
        const Row row = row_of(s, index_t(start), first + thread);
        Corners c = row.corners(s, shift);
        if (mask != nullptr) {
            const real scale = mask[row.at_mask(s)];
            for (int k = 0; k < 4; ++k) c.weight[k] *= scale;
        }
        places[thread] = c;
        image_of[thread] = row.image;
    }
    __syncthreads();

    const int per_offset_group = s.channels / s.offset_groups;
    for (int r = threadIdx.y; r < ROWS && first + r < rows; r += blockDim.y) {
        const index_t line = line_of(s, first + r);
        const int first_channel = offset_group_of(s, first + r) * per_offset_group;
        const Corners& c = places[r];
        const scalar_t* map = pixels + image_of[r] * s.height * s.width * s.channels + first_channel;
        for (int v = threadIdx.x * VEC; v < per_offset_group; v += blockDim.x * VEC) {
            Pack out;
            real sum[VEC] = {};
            if (c.bits) {
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    if (!(c.bits >> k & 1)) continue;
                    const Pack in = load(map + c.pixel[k] * s.channels + v);
#pragma unroll
                    for (int i = 0; i < VEC; ++i) sum[i] += c.weight[k] * to_real(in.value[i]);
                }
            }
#pragma unroll
            for (int i = 0; i < VEC; ++i) assign(out.value[i], sum[i]);
            store(columns + column(s, line, first_channel + v), out);
        }
    }
}

// The gradients of offsets and mask: four dot products over the channels of an offset group, of the columns' gradient with
// the pixels at the four corners; x threads a row, added up by shuffles. In the same pass the columns themselves, for the
// weight's gradient, where `columns` is not null.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
places_backward(const scalar_t* __restrict__ grad_columns, const scalar_t* __restrict__ pixels,
                const real* __restrict__ shift, const real* __restrict__ mask, scalar_t* __restrict__ columns,
                real* __restrict__ grad_shift, real* __restrict__ grad_mask, Sizes s, long long start, long long rows) {
    const index_t number = index_t(blockIdx.x) * blockDim.y + threadIdx.y;
    const bool active = number < rows;  // every thread of a warp takes part in the shuffles
    const Row row = row_of(s, index_t(start), active ? number : 0);
    const Corners c = row.corners(s, shift);
    const real scale = mask != nullptr ? mask[row.at_mask(s)] : real(1);
    const int per_offset_group = s.channels / s.offset_groups;
    const int first_channel = row.offset_group * per_offset_group;
    const scalar_t* map = pixels + row.image * s.height * s.width * s.channels + first_channel;

    real dot[4] = {};
    for (int v = threadIdx.x * VEC; active && v < per_offset_group; v += blockDim.x * VEC) {
        const index_t at = column(s, line_of(s, number), first_channel + v);
        real sum[VEC] = {};
        if (c.bits) {
            const Pack grad = load(grad_columns + at);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                if (!(c.bits >> k & 1)) continue;  // off the map is zero, whatever the pixel that stands in for it
                const Pack in = load(map + c.pixel[k] * s.channels + v);
#pragma unroll
                for (int i = 0; i < VEC; ++i) {
                    const real value = to_real(in.value[i]);
                    dot[k] += to_real(grad.value[i]) * value;
                    sum[i] += c.weight[k] * value;
                }
            }
        }
        if (columns != nullptr) {
            Pack out;
#pragma unroll
            for (int i = 0; i < VEC; ++i) assign(out.value[i], scale * sum[i]);
            store(columns + at, out);
        }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k)
        for (int lane = blockDim.x / 2; lane > 0; lane /= 2) dot[k] += __shfl_xor_sync(0xffffffffu, dot[k], lane);

    if (!active || threadIdx.x != 0) return;
    if (grad_mask != nullptr) {
        real sum = 0;
        if (c.bits) sum = c.weight[0] * dot[0] + c.weight[1] * dot[1] + c.weight[2] * dot[2] + c.weight[3] * dot[3];
        grad_mask[row.at_mask(s)] = sum;
    }
    if (grad_shift != nullptr) {
        const index_t at = row.at_shift_y(s);
        const real left = dot[2] - dot[0], right = dot[3] - dot[1], top = dot[1] - dot[0], bottom = dot[3] - dot[2];
        grad_shift[at] = scale * (left + c.fraction_x * (right - left));
        grad_shift[at + row.area] = scale * (top + c.fraction_y * (bottom - top));
    }
}

// Every entry of S as (input pixel by offset group, weight); entries off the map get the last key, `none`.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
entries(const real* __restrict__ shift, const real* __restrict__ mask, index_t* __restrict__ keys,
        real* __restrict__ weight, Sizes s, long long start, long long rows, long long first_image, long long none) {
    const index_t number = index_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (number >= rows) return;
    const Row row = row_of(s, index_t(start), number);
    const Corners c = row.corners(s, shift);
    const real scale = mask != nullptr ? mask[row.at_mask(s)] : real(1);
    const index_t origin = (row.image - index_t(first_image)) * s.height * s.width;
    for (int k = 0; k < 4; ++k) {
        keys[4 * number + k] = c.bits >> k & 1 ? (origin + c.pixel[k]) * s.offset_groups + row.offset_group : index_t(none);
        weight[4 * number + k] = scale * c.weight[k];
    }
}

// S^T times the columns' gradient. Threads: x over the channels of an offset group, VEC each; y over the keys (input pixel
// by offset group). `order` holds the entries' numbers sorted by key, `begin` where each key starts in it; so every sum
// runs in one fixed order. With `accumulate` the sum goes on from what an earlier chunk of the same images left.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
gather(const scalar_t* __restrict__ grad_columns, const real* __restrict__ weight, const long long* __restrict__ order,
       const long long* __restrict__ begin, total_t* __restrict__ grad_pixels, Sizes s, long long keys, int accumulate) {
    const index_t key = index_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (key >= keys) return;
    const int offset_group = int(key % s.offset_groups), per_offset_group = s.channels / s.offset_groups;
    const int first_channel = offset_group * per_offset_group;
    total_t* out = grad_pixels + key / s.offset_groups * s.channels + first_channel;
    const long long from = begin[key], to = begin[key + 1];
    for (int v = threadIdx.x * VEC; v < per_offset_group; v += blockDim.x * VEC) {
        real sum[VEC];
#pragma unroll
        for (int i = 0; i < VEC; ++i) sum[i] = accumulate ? real(to_real(out[v + i])) : real(0);
        for (long long e = from; e < to; ++e) {
            const long long entry = order[e];
            const Pack grad = load(grad_columns + column(s, line_of(s, index_t(entry / 4)), first_channel + v));
            const real w = weight[entry];
#pragma unroll
            for (int i = 0; i < VEC; ++i) sum[i] += w * to_real(grad.value[i]);
        }
#pragma unroll
        for (int i = 0; i < VEC; ++i) assign(out[v + i], sum[i]);
    }
}
