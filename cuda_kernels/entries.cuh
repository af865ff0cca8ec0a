// A counting sort of weighted entries by key, in an order that no race decides: threads count the entries of each key with
// integer atomics, a running sum says where each key's bin begins, threads fill the bins in any order, and each bin is put
// in order by its entries' numbers where it is read.

// An entry that weighs something: a number that no two entries of a bin share, and its weight. In deformable convolution the
// number says where the columns of its row begin.
struct alignas(sizeof(index_t) + sizeof(real) > 8 ? 16 : 8) Entry {
    index_t columns;
    real weight;
};

// Whether corner k of a place is an entry. A place on a row or a column of pixels has a single pixel beside it; by the
// fractions, and not by the weight, so that the kernels which count and which fill agree, however products are rounded.
INLINE bool weighs(const Corners& c, real scale, int k) {
    return (c.bits >> k & 1) && scale != real(0) && (!(k & 1) || c.fraction_x != real(0)) &&
           (!(k & 2) || c.fraction_y != real(0));
}

// Turns the counts of keys into where their bins end, a running sum; `begin[keys]` becomes the last one's end.
// The whole block, which has whole warps. Counts are read around the first-level cache: other blocks wrote them.
INLINE void add_up(int* begin, index_t keys) {
    constexpr unsigned everyone = 0xffffffffu;
    constexpr int EACH = 8;
    __shared__ int of_warps[32];
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
    const int lane = thread % 32, warp = thread / 32;
    int before = 0;
    for (index_t first = 0; first < keys; first += index_t(threads) * EACH) {
        const index_t mine = first + index_t(thread) * EACH;
        int count[EACH], sum = 0;
#pragma unroll
        for (int i = 0; i < EACH; ++i) count[i] = mine + i < keys ? __ldcg(begin + mine + i) : 0;
#pragma unroll
        for (int i = 0; i < EACH; ++i) sum += count[i];
        int upto = sum;  // of this thread and those before it in its warp
        for (int step = 1; step < 32; step *= 2) {
            const int other = __shfl_up_sync(everyone, upto, step);
            if (lane >= step) upto += other;
        }
        if (lane == 31) of_warps[warp] = upto;
        __syncthreads();
        int all = 0, place = before + upto - sum;
        for (int w = 0; w < threads / 32; ++w) {
            if (w < warp) place += of_warps[w];
            all += of_warps[w];
        }
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            place += count[i];
            if (mine + i < keys) begin[mine + i] = place;
        }
        before += all;
        __syncthreads();
    }
    if (thread == 0) begin[keys] = before;
}

// Puts a short bin in order, through `other`, for the threads that filled it came in any order. A warp together: 32
// entries are ranked by counting, then runs are merged, each entry finding its place by a search of the other run.
INLINE void put_in_order(Entry* bin, Entry* other, int count) {
    constexpr unsigned everyone = 0xffffffffu;
    const int lane = (threadIdx.y * blockDim.x + threadIdx.x) % 32;
    int merges = 0;
    while (32 << merges < count) ++merges;
    Entry* from = merges % 2 ? bin : other;
    Entry* to = merges % 2 ? other : bin;
    for (int first = 0; first < count; first += 32) {
        const int run = min(32, count - first);
        Entry mine = {};
        if (lane < run) mine = bin[first + lane];
        int rank = 0;
        for (int i = 0; i < run; ++i) rank += __shfl_sync(everyone, mine.columns, i) < mine.columns;
        __syncwarp();  // `to` may be `bin`: all have read before one writes
        if (lane < run) to[first + rank] = mine;
    }
    for (int run = 32; run < count; run *= 2) {
        __syncwarp();
        Entry* last = from;
        from = to;
        to = last;
        for (int e = lane; e < count; e += 32) {
            const Entry mine = from[e];
            const int next = min((e & ~(run - 1)) ^ run, count);
            int low = next, high = min(next + run, count);
            while (low < high) {
                const int middle = (low + high) / 2;
                if (from[middle].columns < mine.columns) low = middle + 1;
                else high = middle;
            }
            to[(e & ~(2 * run - 1)) + (e & (run - 1)) + (low - next)] = mine;
        }
    }
    __syncwarp();  // the warp goes on to its next bin, through the same `other`
}

// Who puts a long bin in order together: the whole block, or one warp.
struct Block {
    static INLINE int thread() { return threadIdx.y * blockDim.x + threadIdx.x; }
    static INLINE int threads() { return blockDim.x * blockDim.y; }
    static INLINE void meet() { __syncthreads(); }
};
struct Warp {
    static INLINE int thread() { return Block::thread() % 32; }
    static INLINE int threads() { return 32; }
    static INLINE void meet() { __syncwarp(); }
};

// Puts a long bin in order where it lies: Batcher's merge exchange (Knuth, 5.2.2, algorithm M).
template <class Team>
INLINE void put_long_in_order(Entry* bin, int count) {
    const int thread = Team::thread(), threads = Team::threads();
    int most = 1;
    while (most < count - most) most *= 2;  // the largest power of two below count
    for (int p = most; p > 0; p /= 2) {
        for (int q = most, r = 0, d = p;; d = q - p, q /= 2, r = p) {
            for (int e = thread; e < count - d; e += threads) {
                if ((e & p) != r) continue;
                const Entry low = bin[e], high = bin[e + d];
                if (high.columns < low.columns) {
                    bin[e] = high;
                    bin[e + d] = low;
                }
            }
            Team::meet();
            if (q == p) break;
        }
    }
}
