// Counts what a kernel asks of memory. Its text is compiled with -fsanitize=kernel-address, which turns every load and store
// into a call of the functions at the end: the address tells the array, the running fiber the thread, the place that called
// the instruction.
//
// Accesses of a warp's threads by one instruction in one pass are a request, as on the GPU; requests are measured in 32-byte
// sectors and 128-byte lines. A thread's pass ends where it meets an instruction again, or waits for others.
#include <algorithm>
#include <unordered_map>
#include <vector>

#include "host_counted.h"
#include "host_launch.h"

namespace dcnlab_host {

FloatOperations float_operations;

namespace {

constexpr uintptr_t sector = 32, line = 128;

// The layout is known to counting.py.
struct Traffic {
    uint64_t requests, bytes, sectors, lines;
    uint64_t of_blocks;  // sectors, each once a block
    uint64_t distinct;   // sectors, each once
};

struct Array {
    uintptr_t begin, end;
    uintptr_t offset;                 // of its begin from an allocation's, which on a GPU is well aligned
    Traffic traffic[2] = {};          // loads, stores
    std::vector<uint32_t> blocks[2];  // by sector: the number of the block that had it last
};

struct Access {
    uint64_t pass;
    unsigned warp, site, array;
    bool store;
    uintptr_t address;
    size_t bytes;
};

struct Thread {
    uint64_t pass = 0;
    std::vector<uint64_t> last;  // by site: one more than the pass that met it last
};

std::vector<Array> arrays;  // the last one stands for all shared memory
std::unordered_map<const void*, unsigned> sites;
std::vector<Thread> threads;
std::vector<Access> accesses;  // of the running block
uint64_t barriers, warp_operations;
uint32_t block;

Thread& running() {
    const size_t number = threadIdx.x + blockDim.x * (threadIdx.y + size_t(blockDim.y) * threadIdx.z);
    if (number >= threads.size()) threads.resize(number + 1);
    return threads[number];
}

void note(const void* address, size_t bytes, bool store, const void* place) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(address);
    unsigned array = 0;
    while (array + 1 < arrays.size() && !(at >= arrays[array].begin && at < arrays[array].end)) ++array;
    if (array + 1 >= arrays.size() && !is_shared(address)) return;  // the thread's own stack
    const unsigned site = sites.emplace(place, unsigned(sites.size())).first->second;
    Thread& thread = running();
    if (site >= thread.last.size()) thread.last.resize(site + 1);
    if (thread.last[site] == thread.pass + 1) ++thread.pass;
    thread.last[site] = thread.pass + 1;
    const unsigned number = unsigned(&thread - threads.data());
    const uintptr_t offset = at - arrays[array].begin + arrays[array].offset;
    accesses.push_back({thread.pass, number / 32, site, array, store, offset, bytes});
}

// How many different pieces of memory of a size the accesses touch.
uint64_t pieces(std::vector<Access>::const_iterator from, std::vector<Access>::const_iterator to, uintptr_t size) {
    static std::vector<uintptr_t> found;
    found.clear();
    for (auto access = from; access != to; ++access)
        for (uintptr_t piece = access->address / size; piece <= (access->address + access->bytes - 1) / size; ++piece)
            found.push_back(piece);
    std::sort(found.begin(), found.end());
    return uint64_t(std::unique(found.begin(), found.end()) - found.begin());
}

}  // namespace

void thread_waits(bool at_barrier) {
    ++(at_barrier ? barriers : warp_operations);
    // Threads that have waited together are in the same pass again, whatever each has met before.
    Thread& thread = running();
    thread.pass = ((thread.pass >> 32) + 1) << 32;
}

void block_ends() {
    ++block;
    const auto key = [](const Access& a) { return std::make_tuple(a.array, a.store, a.warp, a.site, a.pass); };
    std::stable_sort(accesses.begin(), accesses.end(), [&](const Access& a, const Access& b) { return key(a) < key(b); });
    for (auto from = accesses.cbegin(); from != accesses.cend();) {
        auto to = from;
        while (to != accesses.cend() && key(*to) == key(*from)) ++to;
        Array& array = arrays[from->array];
        Traffic& traffic = array.traffic[from->store];
        ++traffic.requests;
        traffic.sectors += pieces(from, to, sector);
        traffic.lines += pieces(from, to, line);
        std::vector<uint32_t>& blocks = array.blocks[from->store];
        for (; from != to; ++from) {
            traffic.bytes += from->bytes;
            if (blocks.empty()) continue;  // shared memory
            for (uintptr_t at = from->address / sector; at <= (from->address + from->bytes - 1) / sector; ++at) {
                uint32_t& last = blocks[at - array.offset / sector];
                traffic.distinct += last == 0;
                traffic.of_blocks += last != block;
                last = block;
            }
        }
    }
    accesses.clear();
    for (Thread& thread : threads) thread.pass = ((thread.pass >> 32) + 1) << 32;
}

}  // namespace dcnlab_host

using namespace dcnlab_host;

// Starts a count; of each array the address, the bytes and the offset from the allocation's begin.
extern "C" void dcnlab_watch(const uint64_t (*ranges)[3], uint64_t count) {
    arrays.assign(count + 1, Array());
    for (uint64_t number = 0; number < count; ++number) {
        Array& array = arrays[number];
        array.begin = ranges[number][0];
        array.end = array.begin + ranges[number][1];
        array.offset = ranges[number][2];
        for (auto& blocks : array.blocks)
            blocks.assign((array.offset + ranges[number][1] - 1) / sector - array.offset / sector + 1, 0);
    }
    threads.clear();
    accesses.clear();
    barriers = warp_operations = block = 0;
    float_operations = {};
}

// Gives the counts since: of each array loads and stores, shared memory last; then what the threads did, one number each.
extern "C" void dcnlab_counted(void* traffic, uint64_t* others) {
    Traffic* out = static_cast<Traffic*>(traffic);
    for (const Array& array : arrays)
        for (const Traffic& one : array.traffic) *out++ = one;
    const FloatOperations& f = float_operations;
    for (uint64_t value : {f.additions, f.multiplications, f.divisions, barriers, warp_operations}) *others++ = value;
}

#define DCNLAB_ACCESS(bytes)                                                                                             \
    extern "C" void __asan_load##bytes##_noabort(const void* at) { note(at, bytes, false, __builtin_return_address(0)); } \
    extern "C" void __asan_store##bytes##_noabort(const void* at) { note(at, bytes, true, __builtin_return_address(0)); }
DCNLAB_ACCESS(1)
DCNLAB_ACCESS(2)
DCNLAB_ACCESS(4)
DCNLAB_ACCESS(8)
DCNLAB_ACCESS(16)
extern "C" void __asan_loadN_noabort(const void* at, size_t bytes) { note(at, bytes, false, __builtin_return_address(0)); }
extern "C" void __asan_storeN_noabort(const void* at, size_t bytes) { note(at, bytes, true, __builtin_return_address(0)); }
extern "C" void __asan_handle_no_return() {}
