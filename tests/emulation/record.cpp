// Launches on file: name, grid, block, arguments, and the allocations that pointer arguments lie in, each
// with its address. The replay (race.cpp) puts them back at the same addresses, so that arguments stay valid.
#include "record.h"

#include "emu.h"

#include <stdio.h>
#include <stdlib.h>

#include <map>
#include <set>

namespace emu {
namespace {
// Different launches of each kernel: enough to see its paths; the replay under ThreadSanitizer is slow.
constexpr size_t MOST_PER_KERNEL = 3;

struct File {
    FILE* f;
    bool good = true;
    explicit File(const char* path, const char* mode) : f(fopen(path, mode)), good(f != nullptr) {}
    ~File() {
        if (f) fclose(f);
    }
    void write(const void* p, size_t bytes) { good = good && fwrite(p, 1, bytes, f) == bytes; }
    void read(void* p, size_t bytes) { good = good && fread(p, 1, bytes, f) == bytes; }
    void number(uint64_t n) { write(&n, sizeof n); }
    uint64_t number() {
        uint64_t n = 0;
        read(&n, sizeof n);
        return n;
    }
};

std::map<char*, Place> allocations_of(const Launch& launch) {
    std::map<char*, Place> found;
    for (const auto& arg : launch.args) {
        // Also the address within a tensor map.
        for (size_t at = 0; at + sizeof(void*) <= arg.size(); at += sizeof(void*)) {
            void* pointer = nullptr;
            Place place;
            memcpy(&pointer, arg.data() + at, sizeof pointer);
            if (in_arena(pointer) && find_allocation(pointer, &place)) found[place.start] = place;
        }
    }
    return found;
}
} // namespace

void record_launch(const Launch& launch) {
    static const char* const folder = getenv("L2P_EMU_RECORD");
    if (!folder) return;
    // Launches differ if extents do: in all that is no pointer.
    std::string extents;
    for (const unsigned n : { launch.grid.x, launch.grid.y, launch.grid.z, launch.block.x, launch.smem_bytes }) extents += std::to_string(n) + " ";
    for (const auto& arg : launch.args) {
        if (arg.size() < sizeof(void*)) extents.append(arg.data(), arg.size());
    }
    static std::map<std::string, std::set<std::string>> recorded;
    std::set<std::string>& seen = recorded[launch.kernel];
    const size_t count = seen.size();
    if (count == MOST_PER_KERNEL || !seen.insert(extents).second) return;
    File file((std::string(folder) + "/" + launch.kernel + "." + std::to_string(count) + ".launch").c_str(), "wb");
    file.number(launch.kernel.size());
    file.write(launch.kernel.data(), launch.kernel.size());
    for (const unsigned n : { launch.grid.x, launch.grid.y, launch.grid.z, launch.block.x, launch.block.y, launch.block.z, launch.smem_bytes }) file.number(n);
    file.number(launch.args.size());
    for (const auto& arg : launch.args) {
        file.number(arg.size());
        file.write(arg.data(), arg.size());
    }
    const auto allocations = allocations_of(launch);
    file.number(allocations.size());
    for (const auto& [start, place] : allocations) {
        file.number(reinterpret_cast<uint64_t>(start));
        file.number(place.bytes);
        file.write(start, place.bytes);
    }
    if (file.good) return;
    fprintf(stderr, "emulation: cannot write to L2P_EMU_RECORD=%s\n", folder);
    abort();
}

bool read_launch(const char* path, Launch* launch, std::vector<char*>* starts, std::string* why) {
    File file(path, "rb");
    launch->kernel.resize(file.good ? file.number() : 0);
    file.read(launch->kernel.data(), launch->kernel.size());
    for (unsigned* n : { &launch->grid.x, &launch->grid.y, &launch->grid.z, &launch->block.x, &launch->block.y, &launch->block.z, &launch->smem_bytes }) *n = unsigned(file.number());
    launch->args.resize(file.good ? file.number() : 0);
    for (auto& arg : launch->args) {
        arg.resize(file.good ? file.number() : 0);
        file.read(arg.data(), arg.size());
    }
    for (uint64_t n = file.good ? file.number() : 0; n > 0 && file.good; n--) {
        char* const start = reinterpret_cast<char*>(file.number());
        const size_t bytes = file.number();
        if (!device_alloc_at(start, bytes)) {
            *why = "the memory of a recorded launch is not free";
            return false;
        }
        starts->push_back(start);
        file.read(start, bytes);
    }
    if (!file.good) *why = std::string(path) + " is no recorded launch";
    return file.good;
}
} // namespace emu
