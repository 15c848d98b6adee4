// The asynchronous units of a Hopper multiprocessor, as strict as the PTX ISA 9.0 allows them to be:
//
// - A warpgroup product takes place for each of its warps by itself, at some time between its issue and the warp's
//   wait. Its accumulators hold NaN from the issue to the wait, and nobody may write them or the registers of A.
// - What a tensor load brings lands at some time before its mbarrier completes a phase; until then its place holds NaN.
// - What a tensor store reads is read at some time before its thread's wait, and written before another one.
// - The asynchronous units see what a thread stored to shared memory after its fence_proxy_async.
//
// Some schedules do everything as late as they may, some as early, others draw. Seed 0 is late.
#include "include/common.cuh"

#include "hopper_emu.h"

#include "emu.h"
#include "scheduler.h"
#include "tensor_map.h"

#include <stdio.h>

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <memory>

#ifdef EMU_TSAN
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

namespace emu {
namespace {
// For as long as it is there, ThreadSanitizer does not take what the current thread does for the kernel's own accesses: it sees
// memcpy and the like even in code that is compiled without it.
struct Unseen {
#ifdef EMU_TSAN
    Unseen() {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    ~Unseen() {
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    }
#else
    ~Unseen() {}
#endif
};

// Shared memory begins behind what the system takes for itself.
constexpr uint32_t FIRST_ADDRESS = 1024;
constexpr uint32_t NAN_BITS = 0xfffadeadu; // what accumulators hold
constexpr int64_t MOST_BYTES = (1 << 20) - 1; // that an mbarrier counts
constexpr unsigned REGISTERS = 65536, WARPS_OF_GROUP = 4;

enum class Pace { Late, Early, Drawn };
Pace pace;
uint64_t random_state; // its own: it leaves the order of threads alone
uint64_t draw() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}
unsigned n_warps, n_threads;
std::vector<const Lane*> in_cluster_sync;

unsigned char* smem; // of the block of the current thread
size_t smem_bytes;

std::string at(const Site& site) {
    const char* const slash = strrchr(site.file, '/');
    return std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}

// ---- What a block has ----

struct Mbarrier {
    unsigned count, pending;
    int64_t bytes;
    uint64_t phase;
    bool visible, in_cluster; // to tensor loads; to other blocks, after a cluster_sync
    unsigned maker;
    std::vector<const Lane*> waiting;
    uint64_t order[2];
};

struct NamedBarrier {
    unsigned threads, turn;
    std::vector<const Lane*> waiting;
    uint64_t order[2];
};

// Within 16 << swizzle bytes a chunk of 16 bytes moves by bits 7 and up of its address.
uint32_t swizzled(uint32_t address, unsigned swizzle) { return address ^ (address >> 7 & ((1u << swizzle) - 1)) << 4; }
// After so many bytes of addresses the permutation is the same again.
uint32_t swizzle_period(unsigned swizzle) { return swizzle == 0 ? 16 : 128u << swizzle; }

// A box of a tensor in shared memory.
struct Box {
    TensorMap map;
    int first[5];
    unsigned char* place;
    Site site;

    size_t row_bytes() const { return size_t(map.box[0]) * map.element_bytes; }
    size_t rows() const {
        size_t rows = 1;
        for (unsigned d = 1; d < map.rank; d++) rows *= map.box[d];
        return rows;
    }
    size_t bytes() const { return row_bytes() * rows(); }
    size_t offset() const { return size_t(place - smem); }

    // Calls each(shared, global) for every element; `global` is null outside of the tensor.
    template <class Each> void elements(Each each) const {
        const uint32_t address = FIRST_ADDRESS + uint32_t(offset());
        for (size_t row = 0; row < rows(); row++) {
            char* from = reinterpret_cast<char*>(map.base);
            bool inside = true;
            size_t rest = row;
            for (unsigned d = 1; d < map.rank; d++) {
                const int64_t i = int64_t(first[d]) + int64_t(rest % map.box[d]) * map.steps[d];
                rest /= map.box[d];
                inside = inside && i >= 0 && uint64_t(i) < map.size(d);
                from += i * int64_t(map.strides[d - 1]);
            }
            for (unsigned x = 0; x < map.box[0]; x++) {
                const int64_t i = int64_t(first[0]) + int64_t(x) * map.steps[0];
                const bool there = inside && i >= 0 && uint64_t(i) < map.size(0);
                const uint32_t to = address + uint32_t(row * row_bytes() + x * map.element_bytes);
                char* const global = from + i * map.element_bytes;
                if (there && !is_global(global, map.element_bytes)) fail("the tensor map at %s reaches beyond its allocation: %s", at(site).c_str(), describe_address(global).c_str());
                each(smem + (swizzled(to, map.swizzle) - FIRST_ADDRESS), there ? global : nullptr);
            }
        }
    }
};

struct Load {
    Box box;
    uint64_t* barrier;
};

struct Store {
    Box box;
    std::vector<unsigned char> data; // what was read of shared memory, element after element
    bool is_read, waited_for;
};
struct BulkThread {
    std::vector<Store> open;
    std::vector<std::vector<Store>> groups;
};

// What an instruction of a warpgroup is; all four warps must execute the same ones.
struct Step {
    Op op;
    Site site;
    uint64_t a, b, c;
    unsigned warp;
};

struct Accumulator {
    float* lane[32];
    unsigned n;
    std::vector<float> value; // (16, n)
    unsigned pending;
};

struct Pending {
    Product product;
    std::shared_ptr<Accumulator> to;
    const uint32_t* a[32];
    uint32_t a_value[32][4];
    uint32_t first_a, end_a, first_b, end_b; // addresses
    bool done;
    Site site;
};

// Registers that products used before, by lane, and what they held at the last fence.
struct Registers {
    const uint32_t* lane[32];
    unsigned words;
    std::vector<uint32_t> value;
};

struct WarpState {
    std::deque<Pending> pending; // oldest first
    size_t open;                 // of these not in a group
    std::deque<size_t> groups;
    bool fenced;
    std::vector<Registers> known;
    uint64_t steps; // executed
    unsigned registers;
};
struct GroupState {
    std::deque<Step> steps; // that not all warps have executed
    uint64_t first;
};

struct Units {
    unsigned char* smem;
    bool ended;
    std::vector<uint16_t> hidden; // what the units do not see of ordinary stores: 1 + the thread, for each 4 bytes
    std::map<const void*, Mbarrier> mbarriers;
    std::array<NamedBarrier, 16> named;
    std::vector<Load> loads; // that have not landed
    std::map<unsigned, BulkThread> bulk;
    std::vector<WarpState> warps;
    std::vector<GroupState> warpgroups;
    std::vector<const Lane*> short_of_registers;
    size_t products; // under way
};
// Anew for each cluster, so that ThreadSanitizer forgets the old ones.
std::vector<std::unique_ptr<Units>> cluster;
Units* here; // of the current thread

// For the time of a call, the units of another block of the cluster.
struct In {
    Units* const before = here;
    explicit In(unsigned rank) {
        here = cluster[rank].get();
        smem = here->smem;
    }
    ~In() {
        here = before;
        smem = here->smem;
    }
};

// ---- Ordinary stores that the asynchronous units do not see ----

void expect_visible(size_t offset, size_t bytes, const char* what, const Site& site) {
    for (size_t i = offset / 4; i < (offset + bytes + 3) / 4; i++) {
        if (here->hidden[i] == 0) continue;
        fail("%s at %s uses byte %zu of shared memory, which thread %u stored without fence_proxy_async after it", what,
             at(site).c_str(), i * 4, here->hidden[i] - 1u);
    }
}

// ---- mbarriers ----

// What stands in shared memory in the place of one.
constexpr uint64_t COOKIE = 0xffb0a221e5ffb0a2;

size_t offset_of(const void* p, size_t bytes, const char* what, const Site& site) {
    const size_t offset = size_t(static_cast<const unsigned char*>(p) - smem);
    if (offset > smem_bytes || bytes > smem_bytes - offset) fail("%s outside of the dynamic shared memory (%s)", what, at(site).c_str());
    return offset;
}

std::string name_of(const void* barrier) { return "the mbarrier at byte " + std::to_string(static_cast<const unsigned char*>(barrier) - smem); }

Mbarrier& find(uint64_t* barrier, const Site& site) {
    const auto found = here->mbarriers.find(barrier);
    if (found == here->mbarriers.end()) fail("%s is not initialised (%s)", name_of(barrier).c_str(), at(site).c_str());
    if (*static_cast<volatile uint64_t*>(barrier) != COOKIE) fail("%s was overwritten (%s)", name_of(barrier).c_str(), at(site).c_str());
    return found->second;
}

void try_complete(Mbarrier& m) {
    if (m.pending > 0 || m.bytes != 0) return;
    m.phase++;
    m.pending = m.count;
    for (const Lane* lane : m.waiting) wake(*lane);
    m.waiting.clear();
}

void add_bytes(uint64_t* barrier, Mbarrier& m, int64_t bytes, const Site& site) {
    m.bytes += bytes;
    if (m.bytes > MOST_BYTES || m.bytes < -MOST_BYTES) {
        fail("%s counts %lld bytes, at most 2^20 - 1 are allowed (%s)", name_of(barrier).c_str(), static_cast<long long>(m.bytes), at(site).c_str());
    }
}

// ---- Tensor maps ----

TensorMap decode(const CUtensorMap* map, const Site& site) {
    TensorMap m;
    if (reinterpret_cast<uintptr_t>(map) % 64 != 0) fail("a tensor map whose address is no multiple of 64 bytes (%s)", at(site).c_str());
    memcpy(&m, map, sizeof m);
    if (m.magic != TensorMap::MAGIC || m.check != m.sum()) fail("no tensor map (%s)", at(site).c_str());
    return m;
}

Box box_of(const CUtensorMap* map, const void* place, unsigned rank, const int* first, const char* what, const Site& site) {
    Box box = { decode(map, site), {}, static_cast<unsigned char*>(const_cast<void*>(place)), site };
    if (box.map.rank != rank) fail("%s of %u dimensions with a tensor map of %u (%s)", what, rank, box.map.rank, at(site).c_str());
    for (unsigned d = 0; d < rank; d++) box.first[d] = first[d];
    offset_of(place, box.bytes(), what, site);
    const uint32_t wanted = std::max(128u, box.map.swizzle == 0 ? 0 : swizzle_period(box.map.swizzle));
    if ((FIRST_ADDRESS + box.offset()) % wanted != 0) fail("%s at a shared address that is no multiple of %u bytes (%s)", what, wanted, at(site).c_str());
    return box;
}

void land(size_t i) {
    const Load load = here->loads[i];
    here->loads.erase(here->loads.begin() + ptrdiff_t(i));
    const unsigned size = load.box.map.element_bytes;
    load.box.elements([&](unsigned char* shared, const char* global) {
        if (global) {
            memcpy(shared, global, size);
        } else {
            memset(shared, load.box.map.fills_nan ? 0xff : 0, size);
        }
    });
    Mbarrier& m = find(load.barrier, load.box.site);
    add_bytes(load.barrier, m, -int64_t(load.box.bytes()), load.box.site);
    try_complete(m);
}

void read_store(Store& store) {
    if (store.is_read) return;
    store.is_read = true;
    const unsigned size = store.box.map.element_bytes;
    expect_visible(store.box.offset(), store.box.bytes(), "the tensor store", store.box.site);
    store.box.elements([&](unsigned char* shared, const char*) { store.data.insert(store.data.end(), shared, shared + size); });
}
void write_store(Store& store) {
    read_store(store);
    const unsigned size = store.box.map.element_bytes;
    const unsigned char* from = store.data.data();
    store.box.elements([&](unsigned char*, char* global) {
        if (global) memcpy(global, from, size);
        from += size;
    });
}

// ---- Products of warpgroups ----

WarpState& mine() { return here->warps[current->warp]; }

// Records an instruction of the current warp, and compares it with what the others of its group did in its place.
void step(Op op, const Site& site, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0) {
    const unsigned group = current->warp / WARPS_OF_GROUP;
    if (n_threads < (group + 1) * WARPS_OF_GROUP * 32) fail("%s takes a warpgroup of 128 threads (%s)", name_of(op), at(site).c_str());
    GroupState& g = here->warpgroups[group];
    const uint64_t i = mine().steps++;
    if (i == g.first + g.steps.size()) g.steps.push_back({ op, site, a, b, c, current->warp });
    const Step& other = g.steps[i - g.first];
    if (other.op != op || other.site != site || other.a != a || other.b != b || other.c != c) {
        fail("warps of a warpgroup differ: warp %u in %s at %s, warp %u in %s at %s%s", current->warp, name_of(op), at(site).c_str(), other.warp,
             name_of(other.op), at(other.site).c_str(), other.op == op && !(other.site != site) ? " with other operands" : "");
    }
    uint64_t least = ~uint64_t(0);
    for (unsigned w = 0; w < WARPS_OF_GROUP; w++) least = std::min(least, here->warps[group * WARPS_OF_GROUP + w].steps);
    while (g.first < least) {
        g.steps.pop_front();
        g.first++;
    }
}

// The whole warp executes an instruction: `body` for it, by the last lane to come.
template <class Body> void whole_warp(Op op, const void* post, const Site& site, Body body) {
    if (!warp_arrive(op, ~0u, post, site)) return;
    body();
    warp_release(~0u);
}

// A matrix descriptor: bits 0-13 address, 16-29 and 32-45 offsets, all in 16 bytes; 62-63 the swizzle.
struct Descriptor {
    uint32_t address, leading, stride;
    unsigned swizzle;

    Descriptor(uint64_t bits, const char* what, const Site& site)
        : address(uint32_t(bits & 0x3fff) << 4), leading(uint32_t(bits >> 16 & 0x3fff) << 4), stride(uint32_t(bits >> 32 & 0x3fff) << 4),
          swizzle(unsigned(bits >> 62 == 0 ? 0 : 4 - (bits >> 62))) {
        if ((bits & 0x3fffc000c000c000) != 0) fail("the descriptor of %s has bits that must be 0 (a base offset is not emulated) (%s)", what, at(site).c_str());
        // The start may lie within a row of the permuted pattern, not within its rows.
        const uint32_t within = address % std::max(16u, swizzle_period(swizzle));
        if (swizzle != 0 && within >= 16u << swizzle) fail("the descriptor of %s begins at address %u, %u bytes into a pattern of %u (%s)", what, address, within, swizzle_period(swizzle), at(site).c_str());
    }

    // Where element (outer, k) lies; 16 deep.
    uint32_t at_element(bool outer_first, unsigned outer, unsigned k) const {
        const uint32_t row = 16u << swizzle, per_row = row / 2; // a row of the pattern, in bytes and elements
        uint32_t a = address;
        if (!outer_first) {
            // K-major: 8 rows of the pattern, then the next 8 `stride` further on. Without a pattern a row is 8 elements, and the
            // next 8 of k are `leading` further on.
            a += outer / 8 * stride + outer % 8 * row + (swizzle == 0 ? k / 8 * leading + k % 8 * 2 : k * 2);
        } else if (swizzle == 0) {
            a += outer / 8 * stride + outer % 8 * 2 + k / 8 * leading + k % 8 * 16;
        } else {
            a += outer / per_row * leading + outer % per_row * 2 + k / 8 * stride + k % 8 * row;
        }
        return swizzled(a, swizzle);
    }
};

// The addresses of an operand's chunks of 16 bytes: rows first .. first + count, 16 deep.
template <class Each> void chunks(const Descriptor& d, bool outer_first, unsigned first, unsigned count, Each each) {
    for (unsigned i = 0; i < count; i += outer_first ? 8 : 1) {
        for (unsigned k = 0; k < 16; k += outer_first ? 1 : 8) each(d.at_element(outer_first, first + i, k), i, k);
    }
}

// Checks an operand of a product that is issued: its addresses, and that no copy into it is under way.
void check_operand(const Descriptor& d, bool outer_first, unsigned first, unsigned count, const char* what, const Site& site, uint32_t* from, uint32_t* end) {
    *from = ~0u, *end = 0;
    chunks(d, outer_first, first, count, [&](uint32_t a, unsigned, unsigned) { *from = std::min(*from, a), *end = std::max(*end, a + 16); });
    if (*from < FIRST_ADDRESS || *end > FIRST_ADDRESS + smem_bytes) {
        fail("%s of wgmma lies in bytes %d to %d of shared memory, the block has %zu (%s)", what, int(*from - FIRST_ADDRESS), int(*end - FIRST_ADDRESS), smem_bytes, at(site).c_str());
    }
    for (const Load& load : here->loads) {
        const uint32_t begin = FIRST_ADDRESS + uint32_t(load.box.offset());
        if (*from < begin + load.box.bytes() && begin < *end) {
            fail("%s of wgmma at %s is used while the tensor load of %s into it is under way", what, at(site).c_str(), at(load.box.site).c_str());
        }
    }
}

float number(uint32_t address, bool is_bf16) {
    uint16_t bits;
    memcpy(&bits, smem + (address - FIRST_ADDRESS), 2);
    return is_bf16 ? to_f32(bf16{ bits }) : to_f32(f16{ bits });
}

// Reads 16 deep rows first .. first + count of an operand to (count, 16).
void read_operand(float* to, uint64_t bits, bool outer_first, unsigned first, unsigned count, const Pending& p, const char* what) {
    const Descriptor d(bits, what, p.site);
    chunks(d, outer_first, first, count, [&](uint32_t a, unsigned i, unsigned k) {
        expect_visible(a - FIRST_ADDRESS, 16, "wgmma", p.site);
        for (unsigned e = 0; e < 8; e++) {
            const unsigned row = outer_first ? i + e : i, deep = outer_first ? k : k + e;
            to[row * 16 + deep] = number(a + e * 2, p.product.is_bf16);
        }
    });
}

// Row and column of an accumulator's element i of a lane, within the warp's 16 rows (PTX ISA, "Accumulator D").
unsigned row_of(unsigned lane, unsigned i) { return lane / 4 + i / 2 % 2 * 8; }
unsigned column_of(unsigned lane, unsigned i) { return i / 4 * 8 + lane % 4 * 2 + i % 2; }

constexpr unsigned MOST_COLUMNS = 256;

// The warp's 16 rows of a product.
void execute(unsigned warp, Pending& p) {
    if (p.done) return;
    p.done = true;
    const unsigned n = p.product.n;
    float a[16 * 16], b[16 * MOST_COLUMNS];
    if (p.a[0]) {
        for (unsigned l = 0; l < 32; l++) {
            for (unsigned i = 0; i < 4; i++) { // pairs at (g, t), (g+8, t), (g, t+8), (g+8, t+8)
                const float2 pair = p.product.is_bf16 ? unpack<bf16>(p.a_value[l][i]) : unpack<f16>(p.a_value[l][i]);
                float* const to = a + (l / 4 + i % 2 * 8) * 16 + l % 4 * 2 + i / 2 * 8;
                to[0] = pair.x, to[1] = pair.y;
            }
        }
    } else {
        read_operand(a, p.product.desc_a, p.product.a_outer, warp % WARPS_OF_GROUP * 16, 16, p, "A");
    }
    read_operand(b, p.product.desc_b, p.product.b_outer, 0, n, p, "B");
    float across[16 * MOST_COLUMNS]; // (16, n), so that the host adds neighbours at a time
    for (unsigned j = 0; j < n; j++) {
        for (unsigned k = 0; k < 16; k++) across[k * n + j] = b[j * 16 + k];
    }
    typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
    for (unsigned m = 0; m < 16; m++) {
        float* const d = p.to->value.data() + m * n;
        if (!p.product.accumulate) std::fill(d, d + n, 0.f);
        for (unsigned j = 0; j < n; j += 8) { // n is a multiple of 8
            Four *const to = reinterpret_cast<Four*>(d + j), first = to[0], second = to[1];
            for (unsigned k = 0; k < 16; k++) {
                const Four* const from = reinterpret_cast<const Four*>(across + k * n + j);
                first += a[m * 16 + k] * from[0];
                second += a[m * 16 + k] * from[1];
            }
            to[0] = first, to[1] = second;
        }
    }
}

// The next product of a warp, in order.
bool execute_one(unsigned warp) {
    for (Pending& p : here->warps[warp].pending) {
        if (p.done) continue;
        execute(warp, p);
        return true;
    }
    return false;
}

void expect_untouched(const Accumulator& to, const Site& site) {
    for (unsigned l = 0; l < 32; l++) {
        for (unsigned i = 0; i < to.n / 2; i++) {
            uint32_t bits;
            memcpy(&bits, to.lane[l] + i, 4);
            if (bits != NAN_BITS) fail("accumulator %u of lane %u was changed while the wgmma at %s was under way", i, l, at(site).c_str());
        }
    }
}

// The registers of a product, as the fence saw them.
void expect_fenced(const uint32_t* const* lane, unsigned words, const char* what, const Site& site) {
    for (const Registers& known : mine().known) {
        if (known.words != words || !std::equal(lane, lane + 32, known.lane)) continue;
        for (unsigned l = 0; l < 32 && !known.value.empty(); l++) {
            if (memcmp(lane[l], known.value.data() + l * words, words * 4) != 0) fail("%s of wgmma at %s were changed after wgmma_fence", what, at(site).c_str());
        }
        return;
    }
    Registers known = { {}, words, {} };
    std::copy(lane, lane + 32, known.lane);
    mine().known.push_back(known);
}

void issue(const Site& site) {
    WarpState& warp = mine();
    const Product p = posted<Product>(0);
    Pending next = { p, nullptr, {}, {}, 0, 0, 0, 0, false, site };
    const uint32_t* lanes_of_d[32];
    for (unsigned l = 0; l < 32; l++) {
        const Product& o = posted<Product>(l);
        if (o.desc_a != p.desc_a || o.desc_b != p.desc_b || o.accumulate != p.accumulate) fail("lanes of a warp give wgmma other operands (%s)", at(site).c_str());
        next.a[l] = o.a;
        if (o.a) memcpy(next.a_value[l], o.a, sizeof next.a_value[l]);
        lanes_of_d[l] = reinterpret_cast<const uint32_t*>(o.d);
    }
    step(Op::Wgmma, site, p.desc_a, p.desc_b, p.accumulate);
    if (!warp.fenced) fail("wgmma at %s without wgmma_fence since the start or the last wgmma_wait", at(site).c_str());
    const unsigned row = current->warp % WARPS_OF_GROUP * 16;
    if (!p.a) check_operand(Descriptor(p.desc_a, "A", site), p.a_outer, row, 16, "A", site, &next.first_a, &next.end_a);
    check_operand(Descriptor(p.desc_b, "B", site), p.b_outer, 0, p.n, "B", site, &next.first_b, &next.end_b);
    for (const Pending& o : warp.pending) {
        if (o.to->lane[0] != p.d) continue;
        if (o.to->n != p.n || !std::equal(lanes_of_d, lanes_of_d + 32, reinterpret_cast<const uint32_t* const*>(o.to->lane))) fail("wgmma at %s shares a part of the accumulators of the one at %s", at(site).c_str(), at(o.site).c_str());
        next.to = o.to;
    }
    if (next.to) {
        expect_untouched(*next.to, site);
    } else {
        expect_fenced(lanes_of_d, p.n / 2, "accumulators", site);
        next.to = std::make_shared<Accumulator>();
        next.to->n = p.n;
        next.to->value.resize(16 * p.n);
        for (unsigned l = 0; l < 32; l++) {
            float* const d = posted<Product>(l).d;
            next.to->lane[l] = d;
            for (unsigned i = 0; i < p.n / 2; i++) {
                next.to->value[row_of(l, i) * p.n + column_of(l, i)] = d[i];
                memcpy(d + i, &NAN_BITS, 4);
            }
        }
    }
    if (p.a) expect_fenced(next.a, 4, "registers of A", site);
    next.to->pending++;
    warp.pending.push_back(next);
    warp.open++;
    here->products++;
    // What its operands hold now must be visible, whenever it takes place.
    if (!p.a) chunks(Descriptor(p.desc_a, "A", site), p.a_outer, row, 16, [&](uint32_t a, unsigned, unsigned) { expect_visible(a - FIRST_ADDRESS, 16, "wgmma", site); });
    chunks(Descriptor(p.desc_b, "B", site), p.b_outer, 0, p.n, [&](uint32_t a, unsigned, unsigned) { expect_visible(a - FIRST_ADDRESS, 16, "wgmma", site); });
    if (pace == Pace::Early) execute_one(current->warp);
}

// The oldest product of the current warp is over.
void retire() {
    WarpState& warp = mine();
    Pending& p = warp.pending.front();
    execute(current->warp, p);
    expect_untouched(*p.to, p.site);
    for (unsigned l = 0; p.a[0] && l < 32; l++) {
        if (memcmp(p.a[l], p.a_value[l], sizeof p.a_value[l]) != 0) fail("registers of A of lane %u were changed while the wgmma at %s was under way", l, at(p.site).c_str());
    }
    if (--p.to->pending == 0) {
        for (unsigned l = 0; l < 32; l++) {
            for (unsigned i = 0; i < p.to->n / 2; i++) p.to->lane[l][i] = p.to->value[row_of(l, i) * p.to->n + column_of(l, i)];
        }
    }
    warp.pending.pop_front();
    here->products--;
}

// Whether a product that a warp has not waited for uses these bytes of shared memory.
void expect_unused(const Box& box) {
    const uint32_t begin = FIRST_ADDRESS + uint32_t(box.offset()), end = begin + uint32_t(box.bytes());
    for (unsigned w = 0; w < n_warps; w++) {
        for (const Pending& p : here->warps[w].pending) {
            const bool in_a = !p.a[0] && p.first_a < end && begin < p.end_a;
            if (!in_a && !(p.first_b < end && begin < p.end_b)) continue;
            fail("the tensor load at %s overwrites %s of the wgmma at %s, which warp %u has not waited for", at(box.site).c_str(), in_a ? "A" : "B", at(p.site).c_str(), w);
        }
    }
}

// The registers of a multiprocessor in shares of 8 per thread.
unsigned registers_at_start() { return std::min(248u, REGISTERS / (n_warps * 32) / 8 * 8); }

unsigned total_registers() {
    unsigned sum = 0;
    for (const WarpState& w : here->warps) sum += w.registers;
    return sum;
}
} // namespace

// ---- What the scheduler calls ----

void enter_block(unsigned rank) {
    here = cluster[rank].get();
    smem = here->smem;
}

void begin_of_block(unsigned rank, unsigned blocks, unsigned threads, unsigned char* memory, size_t bytes, uint64_t random) {
    if (rank == 0) {
        cluster.clear();
        for (unsigned b = 0; b < blocks; b++) cluster.push_back(std::make_unique<Units>());
        in_cluster_sync.clear();
        n_threads = threads, n_warps = (threads + 31) / 32;
        smem_bytes = bytes;
        random_state = random * 0x9E3779B97F4A7C15ull | 1;
        constexpr Pace PACES[4] = { Pace::Late, Pace::Early, Pace::Drawn, Pace::Drawn };
        pace = random != 0 ? PACES[draw() >> 40 & 3] : Pace::Late;
    }
    Units& units = *cluster[rank];
    units.smem = memory;
    units.hidden.assign((bytes + 3) / 4 + 4, 0);
    units.warps.assign(n_warps, {});
    for (WarpState& w : units.warps) w.registers = registers_at_start();
    units.warpgroups.assign((n_warps + WARPS_OF_GROUP - 1) / WARPS_OF_GROUP, {});
}

void end_of_thread() {
    const Unseen unseen;
    if (!here->warps[current->warp].pending.empty()) fail("the thread ends while the wgmma at %s is under way", at(here->warps[current->warp].pending.front().site).c_str());
    const auto found = here->bulk.find(current->linear);
    if (found == here->bulk.end()) return;
    if (!found->second.open.empty()) fail("the thread ends without a commit of its tensor store at %s", at(found->second.open[0].box.site).c_str());
    for (auto& group : found->second.groups) {
        for (Store& store : group) {
            if (!store.waited_for) fail("the thread ends while its tensor store at %s reads shared memory", at(store.box.site).c_str());
            write_store(store);
        }
    }
    here->bulk.erase(found);
}

void end_of_block() {
    const Unseen unseen;
    here->ended = true;
    if (!here->loads.empty()) fail("the block ends while the tensor load at %s is under way", at(here->loads[0].box.site).c_str());
    for (size_t g = 0; g < here->warpgroups.size(); g++) {
        if (!here->warpgroups[g].steps.empty()) {
            const Step& step = here->warpgroups[g].steps.front();
            fail("not all warps of warpgroup %zu execute %s at %s, as warp %u does", g, name_of(step.op), at(step.site).c_str(), step.warp);
        }
    }
}

bool land_one() {
    const Unseen unseen;
    for (unsigned b = 0; b < cluster.size(); b++) {
        if (cluster[b]->loads.empty()) continue;
        const In other(b);
        land(0);
        return true;
    }
    return false;
}

void land_some() {
    const Unseen unseen;
    if (pace != Pace::Drawn || (here->loads.empty() && here->bulk.empty() && here->products == 0)) return;
    const uint64_t drawn = draw();
    if (drawn >> 40 & 1 && !here->loads.empty()) {
        land((drawn >> 8) % here->loads.size());
    } else if (drawn >> 41 & 1) {
        execute_one(unsigned((drawn >> 8) % n_warps));
    } else {
        for (auto& [thread, b] : here->bulk) {
            if (!b.groups.empty()) read_store(b.groups[0][0]);
        }
    }
}

void ordinary_store(size_t offset, size_t bytes) {
    for (size_t i = offset / 4; i < (offset + bytes + 3) / 4; i++) here->hidden[i] = uint16_t(current->linear + 1);
}

std::string describe_wait(const Lane& lane) {
    if (lane.op != Op::Mbarrier) return "";
    const In its_block(lane.block);
    const auto found = here->mbarriers.find(lane.post);
    if (found == here->mbarriers.end()) return "";
    const Mbarrier& m = found->second;
    char text[200];
    snprintf(text, sizeof text, " for phase %llu of %s: %u of %u arrivals and %lld bytes are missing", static_cast<unsigned long long>(m.phase),
             name_of(lane.post).c_str(), m.pending, m.count, static_cast<long long>(m.bytes));
    return text;
}

// ---- What kernels call ----

uint32_t shared_address(const void* p, Site site) { return FIRST_ADDRESS + uint32_t(offset_of(p, 1, "smem_address of a place", site)); }

void mbarrier_init(uint64_t* barrier, unsigned count, Site site) {
    const Unseen unseen;
    offset_of(barrier, 8, "an mbarrier", site);
    if (reinterpret_cast<uintptr_t>(barrier) % 8 != 0) fail("an mbarrier at an address that is no multiple of 8 bytes (%s)", at(site).c_str());
    if (count == 0 || count >= 1 << 20) fail("an mbarrier of %u arrivals (%s)", count, at(site).c_str());
    *static_cast<volatile uint64_t*>(barrier) = COOKIE;
    here->mbarriers[barrier] = { count, count, 0, 0, false, false, current->linear, {}, {} };
}

void mbarriers_become_visible() {
    const Unseen unseen;
    for (auto& [place, m] : here->mbarriers) m.visible = m.visible || m.maker == current->linear;
}

namespace {
void arrive(uint64_t* barrier, unsigned bytes, Site site) {
    Mbarrier& m = find(barrier, site);
    if (bytes > MOST_BYTES) fail("%s is to expect %u bytes, at most 2^20 - 1 are allowed (%s)", name_of(barrier).c_str(), bytes, at(site).c_str());
    if (m.pending == 0) fail("%s has all of its %u arrivals, and one more (%s)", name_of(barrier).c_str(), m.count, at(site).c_str());
    order_release(&m.order[m.phase % 2]);
    add_bytes(barrier, m, bytes, site);
    m.pending--;
    try_complete(m);
}
void open_cluster_sync() {
    for (auto& units : cluster) {
        for (auto& [place, m] : units->mbarriers) m.in_cluster = m.visible;
    }
    for (const Lane* lane : in_cluster_sync) wake(*lane);
    in_cluster_sync.clear();
}
} // namespace

void mbarrier_arrive(uint64_t* barrier, unsigned bytes, Site site) {
    const Unseen unseen;
    arrive(barrier, bytes, site);
    preempt();
}

void leave_cluster() {
    const Unseen unseen;
    if (!in_cluster_sync.empty() && in_cluster_sync.size() == living()) open_cluster_sync();
}

void mbarrier_wait(uint64_t* barrier, unsigned parity, Site site) {
    const Unseen unseen;
    preempt();
    Mbarrier& m = find(barrier, site);
    if (parity > 1) fail("mbarrier_wait for parity %u (%s)", parity, at(site).c_str());
    const uint64_t phase = m.phase;
    if (phase % 2 == parity) {
        m.waiting.push_back(current);
        sleep_in(Op::Mbarrier, barrier, site);
        if (m.phase != phase + 1) fail("%s completes phase %llu before a thread has noticed that phase %llu is over (%s)", name_of(barrier).c_str(), static_cast<unsigned long long>(m.phase - 1), static_cast<unsigned long long>(phase), at(site).c_str());
    }
    order_acquire(&m.order[parity]);
}

void named_barrier(unsigned id, unsigned threads, Site site) {
    const Unseen unseen;
    if (id == 0 || id > 15) fail("named barrier %u; 1 to 15 are there, 0 is that of __syncthreads (%s)", id, at(site).c_str());
    if (threads == 0 || threads % 32 != 0) fail("a named barrier of %u threads, which is no multiple of 32 (%s)", threads, at(site).c_str());
    NamedBarrier& b = here->named[id];
    if (!b.waiting.empty() && b.threads != threads) fail("named barrier %u of %u threads is one of %u elsewhere (%s)", id, threads, b.threads, at(site).c_str());
    b.threads = threads;
    const unsigned turn = b.turn;
    order_release(&b.order[turn % 2]);
    if (b.waiting.size() + 1 < threads) {
        b.waiting.push_back(current);
        sleep_in(Op::NamedBarrier, nullptr, site);
    } else {
        b.turn++;
        for (const Lane* lane : b.waiting) wake(*lane);
        b.waiting.clear();
        preempt();
    }
    order_acquire(&b.order[turn % 2]);
}

void max_registers(unsigned registers, bool more, Site site) {
    const Unseen unseen;
    whole_warp(Op::MaxRegisters, nullptr, site, [&] {
        if (registers < 24 || registers > 256 || registers % 8 != 0) fail("set_max_registers of %u; 24 to 256 in steps of 8 are there (%s)", registers, at(site).c_str());
        step(Op::MaxRegisters, site, registers, more);
        WarpState& warp = mine();
        if (more ? registers < warp.registers : registers > warp.registers) fail("set_max_registers_%s to %u from %u (%s)", more ? "inc" : "dec", registers, warp.registers, at(site).c_str());
        const unsigned all = registers_at_start() * n_warps;
        while (total_registers() - warp.registers + registers > all) {
            here->short_of_registers.push_back(current);
            sleep_in(Op::MaxRegisters, nullptr, site);
        }
        warp.registers = registers;
        if (more) return;
        for (const Lane* lane : here->short_of_registers) wake(*lane);
        here->short_of_registers.clear();
    });
}

void tensor_prefetch(const CUtensorMap* map, Site site) { decode(map, site); }

namespace {
void expect_in_cluster(uint64_t* barrier, const Site& site) {
    if (find(barrier, site).in_cluster) return;
    fail("%s is used by another block without fence_mbarrier_init and cluster_sync after its initialisation (%s)", name_of(barrier).c_str(), at(site).c_str());
}
// A load into the block that is `here`, to the place and the mbarrier of the same offsets in all blocks.
void load_here(Box box, size_t place, size_t barrier_at, bool from_elsewhere) {
    box.place = smem + place;
    uint64_t* const barrier = reinterpret_cast<uint64_t*>(smem + barrier_at);
    if (here->ended) fail("the tensor load at %s goes to a block of the cluster that has ended", at(box.site).c_str());
    const Mbarrier& m = find(barrier, box.site);
    if (!m.visible) fail("%s is used by a tensor load before fence_mbarrier_init (%s)", name_of(barrier).c_str(), at(box.site).c_str());
    if (from_elsewhere) expect_in_cluster(barrier, box.site);
    for (const Load& other : here->loads) {
        if (other.box.place < box.place + box.bytes() && box.place < other.box.place + other.box.bytes()) {
            fail("the tensor loads of %s and %s are under way to the same place", at(other.box.site).c_str(), at(box.site).c_str());
        }
    }
    expect_unused(box);
    expect_visible(box.offset(), box.bytes(), "the tensor load", box.site);
    memset(box.place, 0xff, box.bytes());
    here->loads.push_back({ box, barrier });
    if (pace == Pace::Early) land(here->loads.size() - 1);
}
} // namespace

void tensor_load(void* to, const CUtensorMap* map, uint64_t* barrier, unsigned rank, const int* first, uint32_t blocks, Site site) {
    const Unseen unseen;
    const Box box = box_of(map, to, rank, first, "a tensor load", site);
    const size_t barrier_at = offset_of(barrier, 8, "an mbarrier", site);
    if (blocks == 0) { // this one
        load_here(box, box.offset(), barrier_at, false);
    } else if (blocks >> cluster.size() != 0) {
        fail("a tensor load to blocks %x of a cluster of %zu (%s)", blocks, cluster.size(), at(site).c_str());
    }
    const size_t place = box.offset();
    for (unsigned b = 0; b < cluster.size(); b++) {
        if (!(blocks >> b & 1)) continue;
        const In other(b);
        load_here(box, place, barrier_at, b != current->block);
    }
    preempt();
}

unsigned cluster_rank() { return current->block; }

void cluster_sync(Site site) {
    const Unseen unseen;
    in_cluster_sync.push_back(current);
    if (in_cluster_sync.size() == living()) {
        in_cluster_sync.pop_back();
        open_cluster_sync();
        preempt();
    } else {
        sleep_in(Op::ClusterSync, nullptr, site);
    }
}

void mbarrier_arrive_at(uint64_t* barrier, unsigned rank, Site site) {
    const Unseen unseen;
    const size_t offset = offset_of(barrier, 8, "an mbarrier", site);
    if (rank >= cluster.size()) fail("block %u of a cluster of %zu (%s)", rank, cluster.size(), at(site).c_str());
    {
        const In other(rank);
        if (here->ended) fail("an arrival at block %u of the cluster, which has ended (%s)", rank, at(site).c_str());
        uint64_t* const there = reinterpret_cast<uint64_t*>(smem + offset);
        expect_in_cluster(there, site);
        arrive(there, 0, site);
    }
    preempt();
}

void tensor_store(const CUtensorMap* map, const void* from, unsigned rank, const int* first, Site site) {
    const Unseen unseen;
    const Box box = box_of(map, from, rank, first, "a tensor store", site);
    expect_visible(box.offset(), box.bytes(), "the tensor store", site);
    here->bulk[current->linear].open.push_back({ box, {}, false, false });
    if (pace == Pace::Early) read_store(here->bulk[current->linear].open.back());
    preempt();
}

void bulk_commit() {
    const Unseen unseen;
    BulkThread& b = here->bulk[current->linear];
    if (!b.open.empty()) b.groups.push_back(std::move(b.open));
    b.open.clear();
}

void bulk_wait(unsigned most, bool only_read, Site) {
    const Unseen unseen;
    BulkThread& b = here->bulk[current->linear];
    for (size_t i = 0; i + most < b.groups.size(); i++) {
        for (Store& store : b.groups[i]) {
            store.waited_for = true;
            only_read ? read_store(store) : write_store(store);
        }
    }
    if (!only_read && b.groups.size() > most) b.groups.erase(b.groups.begin(), b.groups.end() - ptrdiff_t(most));
    preempt();
}

void ordinary_stores_become_visible() {
    const Unseen unseen;
    const uint16_t me = uint16_t(current->linear + 1);
    for (uint16_t& by : here->hidden) by = by == me ? uint16_t(0) : by;
}

void wgmma_issue(const Product& product, Site site) {
    const Unseen unseen;
    whole_warp(Op::Wgmma, &product, site, [&] { issue(site); });
}

void wgmma_fence(Site site) {
    const Unseen unseen;
    whole_warp(Op::WgmmaFence, nullptr, site, [&] {
        step(Op::WgmmaFence, site);
        WarpState& warp = mine();
        warp.fenced = true;
        for (Registers& known : warp.known) {
            known.value.clear();
            for (unsigned l = 0; l < 32; l++) known.value.insert(known.value.end(), known.lane[l], known.lane[l] + known.words);
        }
    });
}

void wgmma_commit(Site site) {
    const Unseen unseen;
    whole_warp(Op::WgmmaCommit, nullptr, site, [&] {
        step(Op::WgmmaCommit, site);
        mine().groups.push_back(mine().open);
        mine().open = 0;
    });
}

void wgmma_wait(unsigned most, Site site) {
    const Unseen unseen;
    whole_warp(Op::WgmmaWait, nullptr, site, [&] {
        step(Op::WgmmaWait, site, most);
        WarpState& warp = mine();
        while (warp.groups.size() > most) {
            for (size_t i = 0; i < warp.groups.front(); i++) retire();
            warp.groups.pop_front();
        }
        warp.fenced = false;
    });
}
} // namespace emu
