// Runs recorded launches (record.cpp) under ThreadSanitizer, which reports accesses of threads that no
// barrier orders, with both lines.
//
//   race          names of all kernels
//   race FILE…    ends with ThreadSanitizer's exit code if there was a report
#include "emu.h"
#include "record.h"

#include <stdio.h>

int main(int n, char** files) {
    if (n == 1) {
        for (const std::string& name : emu::kernel_names()) puts(name.c_str());
    }
    for (int i = 1; i < n; i++) {
        emu::Launch launch;
        std::string why;
        std::vector<char*> starts;
        if (!emu::read_launch(files[i], &launch, &starts, &why)) {
            fprintf(stderr, "%s\n", why.c_str());
            return 1;
        }
        std::vector<void*> args;
        for (auto& arg : launch.args) args.push_back(arg.data());
        fprintf(stderr, "launch %s\n", launch.kernel.c_str());
        const int error = emu_launch(launch.kernel.c_str(), launch.grid, launch.block, { 1, 1, 1 }, launch.smem_bytes, args.data(), 0);
        if (error != 0) {
            fprintf(stderr, "%s\n", emu_message());
            return 1;
        }
        for (char* start : starts) emu::device_free(start, &why);
    }
}
