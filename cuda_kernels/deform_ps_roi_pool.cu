// Deformable position-sensitive RoI pooling (paper, section 2.2), with the samples of the authors' kernel.

INLINE float round_half_away(float v) { return roundf(v); }
INLINE double round_half_away(double v) { return round(v); }

struct PositionSensitive {
    static constexpr bool averages_kept = true;

    // Corners are whole image pixels, the last one part of the box; a box is at least 0.1 pixel of the map wide and high.
    static INLINE Roi roi(const Sizes& s, const real* box) {
        const real scale = real(s.scale), half = real(0.5), least = real(0.1);
        Roi r;
        r.image = box[0] >= real(0) && box[0] < real(s.batch) ? int(box[0]) : -1;  // NaN is no image
        const real x = round_half_away(box[1]), y = round_half_away(box[2]);
        r.x = x * scale - half;
        r.y = y * scale - half;
        r.width = (round_half_away(box[3]) + real(1) - x) * scale;
        r.height = (round_half_away(box[4]) + real(1) - y) * scale;
        if (r.width < least) r.width = least;
        if (r.height < least) r.height = least;
        return r;
    }

    static INLINE int part(int bin, int bins, int parts) {
        return min(int(floor_of(real(bin) / real(bins) * real(parts))), parts - 1);
    }

    static INLINE int count(const Sizes& s, real, int) { return s.samples; }

    static INLINE real place(const Axis& a, int i) { return a.start + real(i) * a.step; }

    static INLINE void range(const Axis& a, int, int, int& from, int& to) {
        from = 0;
        to = a.samples - 1;
    }

    // Kept up to half a pixel off the map, and clamped to it. At an integer the pixels below and above are one.
    static INLINE Tap tap(real place, int size) {
        Tap t = {};
        if (!(place >= real(-0.5) && place <= real(size) - real(0.5))) return t;
        if (place < real(0)) place = real(0);
        if (place > real(size - 1)) place = real(size - 1);
        const real low = floor_of(place);
        t.kept = true;
        t.low = int(low);
        t.fraction = place - low;
        t.moves = t.fraction > real(0);
        return t;
    }
};

using Rule = PositionSensitive;
