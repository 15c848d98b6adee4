// What -fsanitize=alignment,bounds calls in a kernel that reads a vector from a wrong address or leaves
// a local array, and -fsanitize=kernel-address before each access to memory. The layout of the arguments is that
// of the compilers' runtime library, which is not linked.
#include "cuda_emu.h"

namespace {
struct Location { const char* file; uint32_t line, column; };
struct TypeDescriptor { uint16_t kind, info; char name[1]; };
struct Mismatch { Location at; const TypeDescriptor& type; unsigned char log_alignment, access; };
struct OutOfBounds { Location at; const TypeDescriptor &array, &index; };
} // namespace

static std::string place(void* code, const Location& at) {
    const std::string chain = emu::line_of(code);
    return chain.empty() ? std::string(" (") + at.file + ":" + std::to_string(at.line) + ")" : chain;
}
extern "C" void __ubsan_handle_type_mismatch_v1_abort(const Mismatch* m, uintptr_t address) {
    emu::fail("address %p of a %s is no multiple of %u bytes%s", reinterpret_cast<void*>(address), m->type.name,
              1u << m->log_alignment, place(__builtin_return_address(0), m->at).c_str());
}
extern "C" void __ubsan_handle_out_of_bounds_abort(const OutOfBounds* o, uintptr_t index) {
    emu::fail("index %zd of a %s%s", static_cast<ptrdiff_t>(index), o->array.name, place(__builtin_return_address(0), o->at).c_str());
}

#define CHECKED(bytes) \
    extern "C" void __asan_load##bytes(const void* p) { emu::check_access(p, bytes, false, __builtin_return_address(0)); } \
    extern "C" void __asan_store##bytes(const void* p) { emu::check_access(p, bytes, true, __builtin_return_address(0)); }
CHECKED(1)
CHECKED(2)
CHECKED(4)
CHECKED(8)
CHECKED(16)
extern "C" void __asan_loadN(const void* p, size_t bytes) { emu::check_access(p, bytes, false, __builtin_return_address(0)); }
extern "C" void __asan_storeN(const void* p, size_t bytes) { emu::check_access(p, bytes, true, __builtin_return_address(0)); }
extern "C" void __asan_handle_no_return() {}
extern "C" void __asan_before_dynamic_init(const void*) {}
extern "C" void __asan_after_dynamic_init() {}
