// Tests of the CPU kernels without torch, for sanitizer builds: one instruction set per program,
// chosen by -DRKA_TEST_AVX512 or -DRKA_TEST_AVX2 (plain otherwise). Prints what it measured.
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <type_traits>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(RKA_TEST_AVX512)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define RKA_AVX512
#elif defined(RKA_TEST_AVX2)
#pragma GCC target("avx2,fma")
#define RKA_AVX2
#endif
#define RKA_ISA under_test
#include "../cpp/dispatch.h"

using namespace rka;

static int failures = 0;
static void check(bool ok, const char* what, double value) {
  std::printf("%-44s %.3g%s\n", what, value, ok ? "" : "  FAILED");
  failures += !ok;
}

static std::mt19937 generator(0);
static double uniform_number(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(generator);
}

// Largest error of a float32 function against libm in double precision over a grid.
static double error(FloatV (*f)(FloatV), double (*exact)(double), double low, double high,
                    bool relative) {
  double worst = 0;
  for (int i = 0; i <= 400000; ++i) {
    const float x = float(low + (high - low) * i / 400000);
    const double expected = exact(double(x)), got = double(f(broadcast(x))[0]);
    const double scale = relative ? std::fabs(expected) : 1.0;
    if (scale > 0) worst = std::fmax(worst, std::fabs(got - expected) / scale);
  }
  return worst;
}
static FloatV sine(FloatV x) {
  FloatV s, c;
  sincos_(x, s, c);
  return s;
}
static FloatV cosine(FloatV x) {
  FloatV s, c;
  sincos_(x, s, c);
  return c;
}

static void test_functions() {
  const struct {
    const char* name;
    FloatV (*f)(FloatV);
    double (*exact)(double);
    double low, high, bound;
    bool relative;
  } cases[] = {{"exp, relative", exp_, std::exp, -87, 88, 2e-7, true},
               {"log on (0, 1], relative", log_, std::log, 1e-7, 1, 2e-7, true},
               {"log near 1, relative", log_, std::log, 0.999, 0.99999, 2e-7, true},
               {"log1p on [0, 1], relative", log1p_unit, std::log1p, 1e-9, 1, 3e-7, true},
               {"tanh, relative", tanh_, std::tanh, -9, 9, 5e-7, true},
               {"sin on [0, 2 pi], absolute", sine, std::sin, 0, 6.2831855, 2e-7, false},
               {"cos on [0, 2 pi], absolute", cosine, std::cos, 0, 6.2831855, 2e-7, false}};
  for (const auto& c : cases) {
    const double worst = error(c.f, c.exact, c.low, c.high, c.relative);
    check(worst < c.bound, c.name, worst);
  }
  check(exp_(broadcast(-INFINITY))[0] == 0, "exp(-inf) is 0", 0);
  check(std::isnan(exp_(broadcast(NAN))[0]), "exp(NaN) is NaN", 0);
  check(std::isnan(tanh_(broadcast(NAN))[0]), "tanh(NaN) is NaN", 0);
}

static void test_half() {
  double wrong = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Float16 h{uint16_t(bits)};
    const float x = float(h);
    if (x == x && Float16::of(x).bits != bits) ++wrong;
    const BFloat16 b{uint16_t(bits)};
    const float y = float(b);
    if (y == y && BFloat16::of(y).bits != bits) ++wrong;
  }
  check(wrong == 0, "every float16 and bfloat16 survives", wrong);
}

// K = U'U for a random correlation matrix, and the gradient against central differences.
static void test_cholesky(int n) {
  const int ld = Sequence<double>::padded(n + BLOCK);
  std::vector<double> k(size_t(ld) * ld), u(k), g(k), weight(k), corner(16 * 16 + 16 * ld);
  std::vector<double> x(size_t(n) * (n + 2));
  for (auto& v : x) v = uniform_number(-1, 1);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      for (int c = 0; c < n + 2; ++c) k[i * ld + j] += x[i * (n + 2) + c] * x[j * (n + 2) + c];
      k[i * ld + j] += i == j;
      weight[i * ld + j] = i <= j ? uniform_number(-1, 1) : 0;
    }
  const auto loss = [&](std::vector<double>& matrix) {
    cholesky(n, matrix.data(), u.data(), ld, 1e-4);
    double total = 0;
    for (int i = 0; i < n; ++i)
      for (int j = i; j < n; ++j) total += weight[i * ld + j] * u[i * ld + j];
    return total;
  };
  loss(k);
  double worst = 0;
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      double product = -k[i * ld + j];
      for (int p = 0; p < n; ++p) product += u[p * ld + i] * u[p * ld + j];
      worst = std::fmax(worst, std::fabs(product));
    }
  check(worst < 1e-11, "U'U - K", worst);
  g = weight;
  cholesky_backward(n, u.data(), g.data(), ld, corner.data());
  worst = 0;
  for (int trial = 0; trial < 20; ++trial) {
    const int i = int(uniform_number(0, n)), j = int(uniform_number(0, n));
    std::vector<double> moved(k);
    const double step = 1e-5;
    const auto at = [&](double by) {
      moved = k;
      moved[i * ld + j] += by;
      if (i != j) moved[j * ld + i] += by;
      return loss(moved);
    };
    const double expected = (at(step) - at(-step)) / (2 * step);
    const double got = i == j ? g[i * ld + j] / 2 : g[i * ld + j];
    worst = std::fmax(worst, std::fabs(got - expected) / (1 + std::fabs(expected)));
  }
  check(worst < 1e-6, "Cholesky gradient against differences", worst);
  for (auto& v : k) v = -v;
  cholesky(n, k.data(), u.data(), ld, 1e-4);
  worst = 0;
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      const double expected = i == j ? std::sqrt(1e-4 / (1 + 1e-4)) : 0;
      worst = std::fmax(worst, std::fabs(u[i * ld + j] - expected));
    }
  check(worst < 1e-15, "negative pivots are set and their rows end", worst);
  k[(n - 1) * ld + n - 1] = NAN;
  cholesky(n, k.data(), u.data(), ld, 1e-4);
  check(std::isnan(u[0]) && std::isnan(u[(n - 1) * ld + n - 1]), "NaN gives NaN", 0);
}

// A whole call with buffers of exact size and scratch memory full of NaN: the sanitizer sees every
// step outside, a NaN in the result every read of what was not written.
template <class T>
static void test_call(int n, int width, bool causal, bool padded, Mode mode, double dropout) {
  std::vector<std::unique_ptr<std::vector<T>>> memory;
  const int64_t B = 2, H = 2;
  const auto array = [&](int64_t b, int64_t h, int64_t r, int64_t c, double low, double high) {
    memory.push_back(std::make_unique<std::vector<T>>(size_t(b * h * r * c)));
    for (auto& v : *memory.back()) v = T(uniform_number(low, high));
    View v{reinterpret_cast<char*>(memory.back()->data()),
           sizeof(T) == 4 ? Type::f32 : Type::f64,
           {b > 1 ? h * r * c : 0, r * c, c, 1}};
    return v;
  };
  const auto rows = [&] { return array(B, H, n, width, -1, 1); };
  Problem c{};
  c.batch = B, c.heads = H, c.rows = c.keys = n;
  c.width = c.scale_width = c.shape_width = c.value_width = c.feature_width = width;
  c.query = rows(), c.key = rows(), c.value = rows(), c.scale_query = rows();
  c.scale_key = rows(), c.shape_query = rows(), c.shape_key = rows(), c.output = rows();
  c.features = array(B, 1, n, width, -1, 1), c.gate = array(B, 1, 1, width, 0.5, 1.5);
  c.concentration = array(1, 1, 1, 2, 1, 2), c.mixture = array(B, 1, 1, 3, 0.3, 0.4);
  c.scale_bias = array(1, 1, 1, H, -1, 1), c.bias = array(1, H, n, n, -1, 1);
  c.cooccurrence = array(B, 1, n, n, 0, 1);
  T* counts = reinterpret_cast<T*>(c.cooccurrence.data);
  for (int64_t i = 0; i < B * n * n; ++i) counts[i] = T(i % (n * n) % (n + 1) ? 0.5 : n);
  std::vector<uint8_t> padding(size_t(B * n));
  if (padded)
    for (int j = 0; j < n / 2 + 1; ++j) padding[size_t(j)] = 1;
  if (padded) c.padding = {reinterpret_cast<char*>(padding.data()), Type::u8, {n, 0, 0, 1}};
  int64_t seed = 5;
  c.seed = {reinterpret_cast<char*>(&seed), Type::i64, {0, 0, 0, 0}}, c.draws = 1;
  c.causal = causal, c.mode = mode, c.activation = Activation::leaky_relu;
  c.dropout = dropout, c.jitter = 1e-4;
  Gradients g{};
  g.output = rows(), g.query = rows(), g.key = rows(), g.value = rows(), g.scale_query = rows();
  g.scale_key = rows(), g.shape_query = rows(), g.shape_key = rows();
  g.features = array(B, 1, n, width, 0, 1), g.gate = array(B, 1, 1, width, 0, 1);
  g.bias = array(B, H, n, n, 0, 0), g.scale_bias = array(B, 1, 1, H, 0, 0);
  g.concentration = array(B, 1, 1, 2, 0, 0), g.mixture = array(B, 1, 1, 3, 0, 0);
  if (mode == Mode::location)
    for (View* v : {&g.scale_query, &g.scale_key, &g.scale_bias, &g.shape_query, &g.shape_key,
                    &g.features, &g.gate, &g.concentration, &g.mixture})
      *v = View{};
  const auto each = [&](const Problem& p, bool back, const auto& f) {
    const size_t bytes = scratch_bytes<T>(p, back);
    std::unique_ptr<void, void (*)(void*)> scratch(std::aligned_alloc(64, bytes), std::free);
    for (int64_t b = 0; b < B; ++b) {
      std::memset(scratch.get(), 0xFF, bytes);
      f(b, scratch.get());
    }
  };
  each(c, false, [&](int64_t b, void* scratch) { forward<T>(c, b, scratch); });
  each(c, true, [&](int64_t b, void* scratch) { backward<T>(c, g, b, scratch); });
  double apart = 0;  // from the same call on ready-made relations, and their gradients
  if (mode == Mode::sample) {
    const auto square = [&](int64_t heads) { return array(B, heads, n, n, 0, 0); };
    const Relations ready{square(1), square(1), square(1)}, grad{square(1), square(1), {}};
    Problem shared = c;
    shared.heads = 1;  // of the prior, as no mask differs by head
    each(shared, false, [&](int64_t b, void* scratch) { relations<T>(shared, ready, b, scratch); });
    Problem r = c;
    r.features = r.gate = r.concentration = r.mixture = r.cooccurrence = View{};
    r.feature_width = 0, r.output = rows();
    r.correlation = ready.correlation, r.factor = ready.factor, r.prior = ready.prior;
    r.prior.stride[1] = 0;
    Gradients direct{}, through{};
    direct.output = g.output, direct.correlation = grad.correlation, direct.factor = grad.factor;
    through.features = array(B, 1, n, width, 0, 1);
    each(r, false, [&](int64_t b, void* scratch) { forward<T>(r, b, scratch); });
    each(r, true, [&](int64_t b, void* scratch) { backward<T>(r, direct, b, scratch); });
    each(c, true,
         [&](int64_t b, void* scratch) { relations_backward<T>(c, grad, through, b, scratch); });
    const auto compare = [&](const View& x, const View& y, int64_t count) {
      for (int64_t i = 0; i < count; ++i)
        apart = std::fmax(apart, std::fabs(double(reinterpret_cast<T*>(x.data)[i]) -
                                           double(reinterpret_cast<T*>(y.data)[i])));
    };
    compare(c.output, r.output, B * H * n * width);
    compare(g.features, through.features, B * n * width);
  }
  double bad = 0;
  for (const auto& m : memory)
    for (const T v : *m) bad += !std::isfinite(double(v));
  char what[96];
  std::snprintf(what, sizeof what, "n %d, width %d%s%s, mode %d, f%d", n, width,
                causal ? ", causal" : "", padded ? ", padded" : "", int(mode), int(8 * sizeof(T)));
  check(bad == 0, what, bad);
  check(apart == 0, "the same call on ready-made relations", apart);
}

int main() {
  test_functions();
  test_half();
  for (const int n : {1, 2, 8, 9, 16, 23, 50}) test_cholesky(n);
  for (const int n : {1, 2, 15, 16, 17, 50, 65})
    for (const bool causal : {true, false})
      for (const bool padded : {true, false}) {
        test_call<float>(n, 13, causal, padded, Mode::sample, 0.2);
        test_call<double>(n, 5, causal, padded, Mode::sample, 0.0);
      }
  for (const Mode mode : {Mode::mean, Mode::location})
    test_call<float>(33, 50, true, true, mode, 0);
  std::printf(failures ? "%d FAILED\n" : "all passed\n", failures);
  return failures != 0;
}
