#include "simt/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#error "simt::Fiber switches stacks with x86-64 instructions"
#endif

// Pushes the callee-saved registers onto this stack, and continues where `load` was saved.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.globl simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, . - simt_switch
)");

namespace simt {
namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr int kSavedRegisters = 6;

Fiber* running = nullptr;
void* outside = nullptr;  // the stack pointer of resume()'s caller

// AddressSanitizer must be told of every change of stack.
struct Stack {
  const void* bottom = nullptr;
  size_t bytes = 0;
};
Stack outside_stack;

void leaving([[maybe_unused]] void** fake_stack, [[maybe_unused]] Stack to) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(fake_stack, to.bottom, to.bytes);
#endif
}

void arrived([[maybe_unused]] void* fake_stack, [[maybe_unused]] Stack* from) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack, from ? &from->bottom : nullptr,
                                  from ? &from->bytes : nullptr);
#endif
}

}  // namespace

Fiber::Fiber() {
  void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  stack_ = static_cast<std::byte*>(memory);
}

Fiber::~Fiber() { munmap(stack_, kStackBytes); }

void Fiber::start(void (*entry)()) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack_, kStackBytes);
#endif
  entry_ = entry;
  auto** end = reinterpret_cast<void**>(stack_ + kStackBytes);
  *--end = nullptr;  // keeps the stack aligned as after a call
  *--end = reinterpret_cast<void*>(&Fiber::enter);
  for (int i = 0; i < kSavedRegisters; ++i) *--end = nullptr;
  top_ = end;
}

void Fiber::resume() {
  running = this;
  void* fake_stack = nullptr;
  leaving(&fake_stack, {stack_, kStackBytes});
  simt_switch(&outside, top_);
  arrived(fake_stack, nullptr);
}

void Fiber::suspend(bool for_good) {
  void* fake_stack = nullptr;
  leaving(for_good ? nullptr : &fake_stack, outside_stack);
  simt_switch(&running->top_, outside);
  arrived(fake_stack, &outside_stack);
}

void Fiber::enter() {
  arrived(nullptr, &outside_stack);
  running->entry_();
  suspend(/*for_good=*/true);
}

}  // namespace simt
