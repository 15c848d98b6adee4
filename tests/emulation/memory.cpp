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
char* const ARENA = reinterpret_cast<char*>(0x1000000000);
constexpr size_t ARENA_BYTES = size_t(64) << 30;

struct Allocation { size_t bytes, mapped; };
std::mutex access_to_arena;
std::map<char*, Allocation> allocations; // by first byte
std::map<char*, size_t> holes;           // free ranges of whole pages

char* page_of(char* p) { return reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(p) / PAGE * PAGE); }

// The end of the allocation up to the guard page.
const char* first_spoilt(char* p, const Allocation& a) {
    for (char* q = p + a.bytes; q < page_of(p) + a.mapped; q++) {
        if (static_cast<unsigned char>(*q) != POISON) return q;
    }
    return nullptr;
}
} // namespace

void* device_alloc(size_t bytes) {
    const std::lock_guard<std::mutex> lock(access_to_arena);
    static const bool reserved = [] {
        void* const p = mmap(ARENA, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (p != ARENA) {
            perror("emulation: the arena's address range is taken");
            abort();
        }
        holes[ARENA] = ARENA_BYTES;
        return true;
    }();
    (void)reserved;
    const size_t mapped = (bytes + PAGE - 1) / PAGE * PAGE, whole = mapped + PAGE;
    for (auto hole = holes.begin(); hole != holes.end(); ++hole) {
        if (hole->second < whole) continue;
        char* const page = hole->first;
        const size_t left = hole->second - whole;
        if (mprotect(page, mapped, PROT_READ | PROT_WRITE) != 0) return nullptr;
        holes.erase(hole);
        if (left > 0) holes[page + whole] = left;
        memset(page, POISON, mapped);
        char* const p = page + (mapped - bytes) / ALIGN * ALIGN;
        allocations[p] = { bytes, mapped };
        return p;
    }
    return nullptr;
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
    const char* const spoilt = first_spoilt(found->first, found->second);
    if (spoilt) {
        *why = "byte " + std::to_string(spoilt - found->first) + " of an allocation of " + std::to_string(found->second.bytes) + " bytes was written";
    }
    allocations.erase(found);
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

std::string describe_address(const void* p) {
    char text[300];
    char* const at = static_cast<char*>(const_cast<void*>(p));
    // No lock: this runs in a signal handler, while the launch has the device for itself.
    auto after = allocations.upper_bound(at);
    if (at >= ARENA && at < ARENA + ARENA_BYTES && after != allocations.begin()) {
        const auto& [start, a] = *std::prev(after);
        snprintf(text, sizeof text, "illegal access at %p, byte %zu of an allocation of %zu bytes", p, size_t(at - start), a.bytes);
    } else {
        snprintf(text, sizeof text, "illegal access at %p, which is in no allocation (or a stack overflow)", p);
    }
    return text;
}
} // namespace emu
