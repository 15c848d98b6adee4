// What -fsanitize=alignment,bounds calls in a kernel that reads a vector from a wrong address or leaves
// a local array. The layout of the arguments is that of the compilers' runtime library, which is not linked.
#include "cuda_emu.h"

namespace {
struct Location { const char* file; uint32_t line, column; };
struct TypeDescriptor { uint16_t kind, info; char name[1]; };
struct Mismatch { Location at; const TypeDescriptor& type; unsigned char log_alignment, access; };
struct OutOfBounds { Location at; const TypeDescriptor &array, &index; };
} // namespace

extern "C" void __ubsan_handle_type_mismatch_v1_abort(const Mismatch* m, uintptr_t address) {
    emu::fail("address %p of a %s is no multiple of %u bytes (%s:%u)", reinterpret_cast<void*>(address), m->type.name,
              1u << m->log_alignment, m->at.file, m->at.line);
}
extern "C" void __ubsan_handle_out_of_bounds_abort(const OutOfBounds* o, uintptr_t index) {
    emu::fail("index %zd of a %s (%s:%u)", static_cast<ptrdiff_t>(index), o->array.name, o->at.file, o->at.line);
}
