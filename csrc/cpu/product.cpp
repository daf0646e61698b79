#include "cpu/product.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>

namespace invcap::cpu {
namespace {

// Number of products that the micro-kernels sum in one float32.
constexpr int64_t kInner = 512;

template <class T>
void by_aten(int64_t rows, int64_t columns, int64_t inner, View<const T> a, View<const T> b,
             View<T> out, bool add) {
  at::AutoDispatchBelowAutograd guard;  // thread-local: worker threads start without it
  const auto tensor = [](auto view, int64_t height, int64_t width) {
    auto* data = const_cast<T*>(view.data);
    return at::from_blob(data, {height, width}, {view.stride, 1},
                         c10::CppTypeToScalarType<T>::value);
  };
  auto result = tensor(out, rows, columns);
  const auto left = tensor(a, rows, inner), right = tensor(b, inner, columns);
  add ? result.addmm_(left, right) : at::mm_out(result, left, right);
}

#ifdef CPUBLAS_BRGEMM_F32F32F32
using at::native::cpublas::brgemm;

// Whether this processor has them, and the user allows oneDNN in torch.
bool has_brgemm() {
  if (!at::globalContext().userEnabledMkldnn()) return false;
  static const bool works = [] {
    const float one = 1;
    float product = 0;
    try {
      brgemm(1, 1, 1, 1, 1, 1, /*add_C=*/false, &one, &one, &product, /*is_vnni=*/false);
    } catch (const c10::Error&) {
      return false;
    }
    return product == 1;
  }();
  return works;
}
#endif

}  // namespace

void product(int64_t rows, int64_t columns, int64_t inner, View<const float> a, View<const float> b,
             View<float> out, bool add) {
#ifdef CPUBLAS_BRGEMM_F32F32F32
  if (has_brgemm()) {
    for (int64_t k = 0; k < inner; k += kInner) {
      brgemm(rows, columns, std::min(kInner, inner - k), a.stride, b.stride, out.stride,
             add || k > 0, a.at(0, k).data, b.at(k).data, out.data, /*is_vnni=*/false);
    }
    return;
  }
#endif
  by_aten(rows, columns, inner, a, b, out, add);
}

void product(int64_t rows, int64_t columns, int64_t inner, View<const double> a,
             View<const double> b, View<double> out, bool add) {
  by_aten(rows, columns, inner, a, b, out, add);
}

}  // namespace invcap::cpu
