// The kernels and their launchers, callable from Python with the harness in place of a GPU.
#include <vector>

#include "cuda/launchers.h"
#include "library.h"

using namespace invcap::cuda;

// One network and a batch of rows; test_kernels.py declares the same structure.
struct Call {
  int scalar, tensor_cores;
  int64_t rows;
  int n, depth;
  double diagonal, negative_slope, sign;
  const void* const* lu;
  const void* const* bias;
  void* const* inverse;
  const void *x, *y, *h, *gz, *gh, *grad;
  void *out, *out_h, *out_gz, *out_gh, *out_glu, *out_gb, *work;

  Problem problem() const {
    return {static_cast<Scalar>(scalar), tensor_cores != 0, rows, n, nullptr};
  }
  std::vector<LayerPointers> layers() const {
    std::vector<LayerPointers> result;
    for (int i = 0; i < depth; ++i) {
      const bool activated = depth == 1 || i + 1 < depth;
      result.push_back({lu[i], bias[i], inverse[i], diagonal, activated ? negative_slope : 1.0});
    }
    return result;
  }
};

extern "C" const char* run_forward(const Call* c) {
  return reported(
      [&] { forward(c->problem(), c->layers().data(), c->depth, c->x, c->out, c->out_h); });
}
extern "C" const char* run_inverse(const Call* c) {
  return reported([&] {
    invert_blocks(c->problem(), c->layers().data(), c->depth);
    inverse(c->problem(), c->layers().data(), c->depth, c->y, c->out, c->out_h);
  });
}
extern "C" const char* run_backward(const Call* c) {
  return reported(
      [&] { backward(c->problem(), c->layers()[0], c->grad, c->y, c->out, c->out_gz, c->out_gh); });
}
extern "C" const char* run_inverse_backward(const Call* c) {
  return reported([&] {
    invert_blocks(c->problem(), c->layers().data(), 1);
    inverse_backward(c->problem(), c->layers()[0], c->grad, c->y, c->out, c->out_gz, c->out_gh);
  });
}
extern "C" const char* run_weight_gradient(const Call* c) {
  return reported([&] {
    weight_gradient(c->problem(), c->sign, c->gz, c->h, c->gh, c->x, c->out_glu, c->out_gb,
                    c->work);
  });
}
extern "C" int64_t gradient_work(const Call* c) { return gradient_work_elements(c->problem()); }
extern "C" bool is_on_chip(const Call* c, bool solves) {
  return solves ? solves_on_chip(c->problem()) : products_on_chip(c->problem());
}

extern "C" const char* run_squared_error(int scalar, int64_t images, int64_t size,
                                         const void* predicted, const void* noise,
                                         const void* weight, void* loss, void* gradient) {
  return reported([&] {
    squared_error(static_cast<Scalar>(scalar), images, size, predicted, noise, weight, loss,
                  gradient, nullptr);
  });
}
