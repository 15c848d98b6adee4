// A launch with all it needs to run again in another process: see record.cpp.
#pragma once
#include "cuda_emu.h"

#include <string>

namespace emu {
struct Launch {
    std::string kernel;
    Dim grid, block;
    unsigned smem_bytes;
    std::vector<std::vector<char>> args;
};
// Writes the launch and the memory its arguments point to, if L2P_EMU_RECORD names a folder.
void record_launch(const Launch& launch);
// Reads one back and puts the memory where it was, at `starts`; false with a sentence in `why`.
bool read_launch(const char* path, Launch* launch, std::vector<char*>* starts, std::string* why);
} // namespace emu
