// Deformable position-sensitive RoI pooling as the authors' kernel is organised, written from its published rules: a thread
// an element of the output, in the order of (R, K, P, P), which finds its own samples and reads four pixels of each;
// backward the same threads, with an atomic addition a corner and a shift. A peer for roi_pooling.py, never the product's.
//
//   array    shape                              meaning
//   pixels   (N, K * G * G, H, W)               input map
//   boxes    (R, 5)                             image number, x1, y1, x2, y2
//   offset   (R, 2 * classes, parts, parts)     x before y; or null
//   out      (R, K, P, P)                       and its gradient
//   kept     (R, K, P, P)                       samples on the map
//
// Gradients are added up in float32 or wider.

struct PoolSizes {
    long long outputs;
    double scale, gamma;
    int batch, height, width, channels, group, classes, bins, parts, samples;
};

INLINE float rounded(float v) { return roundf(v); }
INLINE double rounded(double v) { return round(v); }

// What a thread's element is of, and where its first sample lies.
struct Element {
    int image, channel, part_at, part_area;
    real x, y, step_x, step_y, width, height;
    long long number;

    INLINE Element(const PoolSizes& s, const real* boxes, const real* offset, long long index) {
        const int column = int(index % s.bins), row = int(index / s.bins % s.bins);
        const int of = int(index / s.bins / s.bins % s.channels);
        number = index / s.bins / s.bins / s.channels;
        const real* box = boxes + number * 5;
        image = int(box[0]);
        const real left = rounded(box[1]) * real(s.scale) - real(0.5), top = rounded(box[2]) * real(s.scale) - real(0.5);
        width = (rounded(box[3]) + real(1)) * real(s.scale) - real(0.5) - left;
        height = (rounded(box[4]) + real(1)) * real(s.scale) - real(0.5) - top;
        width = width > real(0.1) ? width : real(0.1);
        height = height > real(0.1) ? height : real(0.1);
        const real bin_width = width / real(s.bins), bin_height = height / real(s.bins);
        step_x = bin_width / real(s.samples);
        step_y = bin_height / real(s.samples);
        const int part_y = int(floor_of(real(row) / real(s.bins) * real(s.parts)));
        const int part_x = int(floor_of(real(column) / real(s.bins) * real(s.parts)));
        part_area = s.parts * s.parts;
        const int class_of = of / (s.channels / s.classes);
        part_at = int((number * s.classes + class_of) * 2 * part_area + part_y * s.parts + part_x);
        x = left + real(column) * bin_width;
        y = top + real(row) * bin_height;
        if (offset != nullptr) {
            x += offset[part_at] * real(s.gamma) * width;
            y += offset[part_at + part_area] * real(s.gamma) * height;
        }
        const int cell_y = row * s.group / s.bins, cell_x = column * s.group / s.bins;
        channel = (of * s.group + cell_y) * s.group + cell_x;
    }
};

// The four pixels of a sample and its fractions.
struct Sample {
    bool kept;
    int at[4];
    real x, y;

    INLINE Sample(const PoolSizes& s, real place_x, real place_y) {
        kept = !(place_x < real(-0.5) || place_x > real(s.width) - real(0.5) || place_y < real(-0.5) ||
                 place_y > real(s.height) - real(0.5));
        if (!kept) return;
        place_x = min(max(place_x, real(0)), real(s.width - 1));
        place_y = min(max(place_y, real(0)), real(s.height - 1));
        const int left = int(floor_of(place_x)), top = int(floor_of(place_y));
        x = place_x - real(left);
        y = place_y - real(top);
        const int right = left + int(x > real(0)), bottom = top + int(y > real(0));
        at[0] = top * s.width + left;
        at[1] = top * s.width + right;
        at[2] = bottom * s.width + left;
        at[3] = bottom * s.width + right;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS)
scalar_pool(const scalar_t* __restrict__ pixels, const real* __restrict__ boxes, const real* __restrict__ offset,
            scalar_t* __restrict__ out, real* __restrict__ kept, PoolSizes s) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= s.outputs) return;
    const Element e(s, boxes, offset, index);
    const scalar_t* plane = pixels + ((long long)e.image * s.channels * s.group * s.group + e.channel) * s.height * s.width;
    real sum = 0;
    int count = 0;
    for (int i = 0; i < s.samples; ++i) {
        for (int j = 0; j < s.samples; ++j) {
            const Sample p(s, e.x + real(j) * e.step_x, e.y + real(i) * e.step_y);
            if (!p.kept) continue;
            sum += (real(1) - p.x) * (real(1) - p.y) * to_real(plane[p.at[0]]) + p.x * (real(1) - p.y) * to_real(plane[p.at[1]]) +
                   (real(1) - p.x) * p.y * to_real(plane[p.at[2]]) + p.x * p.y * to_real(plane[p.at[3]]);
            ++count;
        }
    }
    assign(out[index], count == 0 ? real(0) : sum / real(count));
    kept[index] = real(count);
}

extern "C" __global__ void __launch_bounds__(THREADS)
scalar_backward(const scalar_t* __restrict__ grad, const scalar_t* __restrict__ pixels, const real* __restrict__ boxes,
                const real* __restrict__ offset, const real* __restrict__ kept, real* __restrict__ grad_pixels,
                real* __restrict__ grad_offset, PoolSizes s) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= s.outputs || !(kept[index] > real(0))) return;
    const Element e(s, boxes, offset, index);
    const long long plane = ((long long)e.image * s.channels * s.group * s.group + e.channel) * s.height * s.width;
    const real share = to_real(grad[index]) / kept[index];
    for (int i = 0; i < s.samples; ++i) {
        for (int j = 0; j < s.samples; ++j) {
            const Sample p(s, e.x + real(j) * e.step_x, e.y + real(i) * e.step_y);
            if (!p.kept) continue;
            real* to = grad_pixels + plane;
            atomicAdd(to + p.at[0], share * (real(1) - p.x) * (real(1) - p.y));
            atomicAdd(to + p.at[1], share * p.x * (real(1) - p.y));
            atomicAdd(to + p.at[2], share * (real(1) - p.x) * p.y);
            atomicAdd(to + p.at[3], share * p.x * p.y);
            if (grad_offset == nullptr) continue;
            real v[4];
            for (int k = 0; k < 4; ++k) v[k] = to_real(pixels[plane + p.at[k]]);
            const real by_x = (real(1) - p.y) * (v[1] - v[0]) + p.y * (v[3] - v[2]);
            const real by_y = (real(1) - p.x) * (v[2] - v[0]) + p.x * (v[3] - v[1]);
            atomicAdd(grad_offset + e.part_at, share * real(s.gamma) * e.width * by_x);
            atomicAdd(grad_offset + e.part_at + e.part_area, share * real(s.gamma) * e.height * by_y);
        }
    }
}
