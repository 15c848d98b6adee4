// The memory of the emulated devices: allocations at fixed addresses, each between pages that fault,
// so that a kernel that leaves its arrays is stopped and named.
#include "emu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <map>
#include <mutex>

namespace emu {
namespace {
constexpr size_t PAGE = 4096;
// cuMemAlloc promises 256 bytes; an allocation ends as close to its guard page as that allows.
constexpr size_t ALIGN = 256;
constexpr unsigned char POISON = 0xff;
// An address range that ThreadSanitizer leaves to programs, too.
char* const ARENA = reinterpret_cast<char*>(ARENA_AT);

struct Allocation { size_t bytes, mapped; int device; };
std::mutex access_to_arena;
std::map<char*, Allocation> allocations; // by first byte
std::map<char*, size_t> holes;           // free ranges of whole pages

uint64_t reachable = ~uint64_t(0); // devices whose memory the running launch may touch

// The allocation that was last found in a page.
struct Known { const char *page, *start, *end; };
Known known[64];
void forget() { memset(known, 0, sizeof known); }

char* page_of(char* p) { return reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(p) / PAGE * PAGE); }

size_t pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

void reserve_arena() {
    static bool reserved = false;
    if (reserved) return;
    void* const p = mmap(ARENA, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (p != ARENA) {
        perror("emulation: the address range of device memory is taken");
        abort();
    }
    holes[ARENA] = ARENA_BYTES;
    reserved = true;
}

// The allocation at the beginning of a hole that is large enough.
char* take(char* page, size_t bytes, int device) {
    const size_t mapped = pages(bytes), left = holes[page] - (mapped + PAGE);
    if (mprotect(page, mapped, PROT_READ | PROT_WRITE) != 0) return nullptr;
    holes.erase(page);
    if (left > 0) holes[page + mapped + PAGE] = left;
    memset(page, POISON, mapped);
    char* const start = page + (mapped - bytes) / ALIGN * ALIGN;
    allocations[start] = { bytes, mapped, device };
    forget();
    return start;
}

// Where something was written beside the allocation: before it within `before` bytes, or behind it.
const char* first_spoilt(char* p, const Allocation& a, size_t before) {
    char* const page = page_of(p);
    const auto spoilt = [](char* from, char* to) -> const char* {
        for (; from < to; from++) {
            if (static_cast<unsigned char>(*from) != POISON) return from;
        }
        return nullptr;
    };
    const char* const head = spoilt(size_t(p - page) > before ? p - before : page, p);
    return head ? head : spoilt(p + a.bytes, page + a.mapped);
}

std::string describe_spoilt(const char* at, const char* start, const Allocation& a) {
    char text[200];
    snprintf(text, sizeof text, "byte %td of an allocation of %zu bytes was written", at - start, a.bytes);
    return text;
}
} // namespace

void* device_alloc(size_t bytes, int device) {
    const std::lock_guard<std::mutex> lock(access_to_arena);
    reserve_arena();
    const size_t whole = pages(bytes) + PAGE;
    for (const auto& [page, free_bytes] : holes) {
        if (free_bytes >= whole) return take(page, bytes, device);
    }
    return nullptr;
}

bool device_alloc_at(char* start, size_t bytes) {
    const std::lock_guard<std::mutex> lock(access_to_arena);
    reserve_arena();
    char* const page = page_of(start);
    auto hole = holes.upper_bound(page);
    if (hole == holes.begin()) return false;
    --hole;
    char* const from = hole->first;
    if (page + pages(bytes) + PAGE > from + hole->second) return false;
    if (from < page) { // the hole in two, so that one begins here
        holes[page] = hole->second - size_t(page - from);
        hole->second = size_t(page - from);
    }
    return take(page, bytes, 0) == start;
}

bool device_free(void* pointer, std::string* why) {
    const std::lock_guard<std::mutex> lock(access_to_arena);
    const auto found = allocations.find(static_cast<char*>(pointer));
    if (found == allocations.end()) {
        *why = "no allocation starts at the address to be freed";
        return false;
    }
    char* const page = page_of(found->first);
    const size_t mapped = found->second.mapped;
    const char* const spoilt = first_spoilt(found->first, found->second, PAGE);
    if (spoilt) *why = describe_spoilt(spoilt, found->first, found->second);
    allocations.erase(found);
    forget();
    madvise(page, mapped, MADV_DONTNEED);
    mprotect(page, mapped, PROT_NONE);
    // Joined with free neighbours.
    char* from = page;
    size_t bytes = mapped + PAGE;
    auto next = holes.lower_bound(page);
    if (next != holes.end() && next->first == page + bytes) {
        bytes += next->second;
        next = holes.erase(next);
    }
    if (next != holes.begin()) {
        const auto before = std::prev(next);
        if (before->first + before->second == from) {
            from = before->first;
            bytes += before->second;
        }
    }
    holes[from] = bytes;
    return !spoilt;
}

bool is_allocated(const void* p, size_t bytes) {
    char* const at = static_cast<char*>(const_cast<void*>(p));
    const char* const page = page_of(at);
    Known& k = known[reinterpret_cast<uintptr_t>(page) / PAGE % 64];
    if (k.page != page) {
        const auto after = allocations.upper_bound(at);
        if (after == allocations.begin()) return false;
        const auto& [start, a] = *std::prev(after);
        if (at >= start + a.bytes || !(reachable >> a.device & 1)) return false;
        k = { page, start, start + a.bytes };
    }
    return at >= k.start && at + bytes <= k.end;
}

void reach(uint64_t devices) {
    if (devices == reachable) return;
    const std::lock_guard<std::mutex> lock(access_to_arena);
    reachable = devices;
    forget();
}

bool find_allocation(const void* p, Place* place) {
    const std::lock_guard<std::mutex> lock(access_to_arena);
    char* const at = static_cast<char*>(const_cast<void*>(p));
    const auto after = allocations.upper_bound(at);
    if (after == allocations.begin()) return false;
    const auto& [start, a] = *std::prev(after);
    if (at >= start + a.bytes) return false;
    *place = { start, a.bytes, a.device };
    return true;
}

std::string spoilt_guard() {
    const std::lock_guard<std::mutex> lock(access_to_arena);
    for (const auto& [start, a] : allocations) {
        // Before an allocation there may be most of a page; a kernel's slip lands close to its array.
        const char* const at = first_spoilt(start, a, 64);
        if (!at) continue;
        const std::string text = describe_spoilt(at, start, a);
        memset(page_of(start), POISON, size_t(start - page_of(start)));
        memset(start + a.bytes, POISON, size_t(page_of(start) + a.mapped - (start + a.bytes)));
        return text;
    }
    return "";
}

std::string describe_address(const void* p) {
    char text[300];
    char* const at = static_cast<char*>(const_cast<void*>(p));
    // No lock: this runs in a signal handler, while the launch has the device for itself.
    auto after = allocations.upper_bound(at);
    // An allocation begins somewhere in its first page.
    const bool before = after != allocations.end() && page_of(after->first) <= at;
    if (in_arena(at) && (before || after != allocations.begin())) {
        const auto& [start, a] = before ? *after : *std::prev(after);
        const int n = snprintf(text, sizeof text, "byte %td of an allocation of %zu bytes", at - start, a.bytes);
        if (!(reachable >> a.device & 1)) snprintf(text + n, sizeof text - size_t(n), " of device %d", a.device);
    } else {
        snprintf(text, sizeof text, "address %p, which is in no allocation (or a stack overflow)", p);
    }
    return text;
}
} // namespace emu
