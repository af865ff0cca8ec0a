// RoIAlign-style deformable RoI pooling: RoIAlign (aligned) with every bin shifted by its offset.

struct Aligned {
    static constexpr bool averages_kept = false;

    // Sizes come from the corners' difference, so that an empty box is empty however multiply and add are fused.
    static INLINE Roi roi(const Sizes& s, const real* box) {
        const real scale = real(s.scale), half = real(0.5);
        Roi r;
        r.image = box[0] >= real(0) && box[0] < real(s.batch) ? int(box[0]) : -1;  // NaN is no image
        r.x = box[1] * scale - half;
        r.y = box[2] * scale - half;
        r.width = (box[3] - box[1]) * scale;
        r.height = (box[4] - box[2]) * scale;
        return r;
    }

    static INLINE int part(int bin, int, int) { return bin; }

    // As many as the bin is pixels long, where no number is given; none for empty, reversed, NaN and absurdly large boxes.
    static INLINE int count(const Sizes& s, real size, int bins) {
        if (s.samples > 0) return s.samples;
        const float number = ceilf(float(size / real(bins)));
        return number >= 1.0f && number <= float(MAX_SAMPLES) ? int(number) : 0;
    }

    static INLINE real place(const Axis& a, int i) { return a.start + (real(i) + real(0.5)) * a.step; }

    // A large box has many samples, about a pixel apart, of which few touch a pixel: all within one pixel of it, since
    // pixel 0 is read from -1 on and the last one up to the map's size. Two samples spare for rounding.
    static INLINE void range(const Axis& a, int low, int high, int& from, int& to) {
        constexpr int few = 8;
        from = 0;
        to = a.samples - 1;
        if (a.samples <= few || !(a.step > real(0.5))) return;
        const real first = (real(low - 1) - a.start) * a.per_step - real(2);
        const real last = (real(high + 1) - a.start) * a.per_step + real(2);
        if (first > real(0)) from = first < real(a.samples) ? int(first) : a.samples;
        if (last < real(to)) to = last > real(-1) ? int(last) : -1;
    }

    // Zero beyond one pixel off the map, constant up to there.
    static INLINE Tap tap(real place, int size) {
        Tap t = {};
        if (!(place >= real(-1) && place <= real(size))) return t;
        t.kept = true;
        if (place < real(0)) return t;
        const real low = floor_of(place);
        t.low = int(low);
        if (t.low >= size - 1) {
            t.low = size - 1;
        } else {
            t.fraction = place - low;
            t.moves = true;
        }
        return t;
    }
};

using Rule = Aligned;
