// A fiber: code with its own stack, which runs until it suspends itself. x86-64 only.
#pragma once

#include <cstddef>

namespace simt {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls `entry` on an empty stack; what ran before is discarded.
  void start(void (*entry)());
  // Runs the fiber until it suspends. Called from outside of any fiber.
  void resume();
  // Returns to the caller of resume(). `for_good`: this fiber is never resumed again.
  static void suspend(bool for_good = false);

 private:
  std::byte* stack_;
  void* top_ = nullptr;
  void (*entry_)() = nullptr;
  static void enter();
};

}  // namespace simt
