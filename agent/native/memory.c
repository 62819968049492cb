// What the process does not need goes back to the system: pages that the C library keeps of whatever was large for a moment, and pages of
// the program's own file that ran once, while it started. The latter are clean: the kernel has them in its cache and maps them again,
// by a minor fault, should they run once more; until then it may use them for something else.
#include "weft.h"

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

// The program itself comes first, and only its segments that nothing can have written to.
static int unmap_pages(struct dl_phdr_info *object, size_t size, void *argument) {
  (void)size;
  (void)argument;
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  for (int i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
    if (segment->p_type != PT_LOAD || (segment->p_flags & PF_W) != 0) continue;
    uintptr_t start = (object->dlpi_addr + segment->p_vaddr + page - 1) & ~(page - 1);
    uintptr_t end = (object->dlpi_addr + segment->p_vaddr + segment->p_filesz) & ~(page - 1);
    if (end > start) madvise((void *)start, end - start, MADV_DONTNEED);
  }
  return 1;
}

// giveBackMemory(): takes about a millisecond.
static napi_value give_back(napi_env env, napi_callback_info info) {
  (void)env;
  (void)info;
#ifdef __GLIBC__
  malloc_trim(0);
#endif
  dl_iterate_phdr(unmap_pages, NULL);
  return NULL;
}

void init_memory(napi_env env, napi_value exports) {
  static const struct function functions[] = {{"giveBackMemory", give_back}};
  add_functions(env, exports, functions, sizeof functions / sizeof functions[0]);
}
