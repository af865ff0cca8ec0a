// What the kernels of deformable convolution share: the sizes of a call, and the place at which one tap of one output pixel reads.

struct Sizes {
    int height, width, channels, out_height, out_width, kernel_height, kernel_width;
    int stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, groups, offset_groups;
};

// One row of S: which output pixel (counted over the batch), tap and offset group, and where the shift and the mask of it stand.
struct Row {
    index_t image, position, area;
    int tap, offset_group;

    Row() = default;
    INLINE Row(const Sizes& s, index_t pixel, int tap, int offset_group) : tap(tap), offset_group(offset_group) {
        area = index_t(s.out_height) * s.out_width;
        image = pixel / area;
        position = pixel % area;
    }

    INLINE index_t channel(const Sizes& s) const {
        return (image * s.offset_groups + offset_group) * (s.kernel_height * s.kernel_width) + tap;
    }
    INLINE index_t at_shift_y(const Sizes& s) const { return 2 * channel(s) * area + position; }
    INLINE index_t at_mask(const Sizes& s) const { return channel(s) * area + position; }

    INLINE Corners corners(const Sizes& s, real shift_y, real shift_x) const {
        const int out_y = int(position / s.out_width), out_x = int(position % s.out_width);
        const int tap_y = tap / s.kernel_width, tap_x = tap % s.kernel_width;
        return corners(s, shift_y, shift_x, out_y, out_x, tap_y, tap_x);
    }
    static INLINE Corners corners(const Sizes& s, real shift_y, real shift_x, int out_y, int out_x, int tap_y, int tap_x) {
        const real y = real(out_y * s.stride_y - s.padding_y + tap_y * s.dilation_y) + shift_y;
        const real x = real(out_x * s.stride_x - s.padding_x + tap_x * s.dilation_x) + shift_x;
        return corners_of(y, x, s.height, s.width);
    }
};
