// Compares every kernel of every instruction set that this machine runs with the plain one: `kernels_test [--together N]
// [isa ...]`. With --together, N threads run all cases at the same time, each with pools of its own, then share one.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <thread>

#include "kit.h"

namespace pocketvlm::test {

Batch::Batch(Random& random, const std::vector<long>& lengths, const std::vector<long>& contexts)
    : sequences(static_cast<long>(lengths.size())),
      slots_held(sequences + 2),
      offsets(sequences + 1),
      context(sequences),
      slots(random.permutation(sequences, slots_held)) {
    offsets[0] = 0;
    for (long s = 0; s < sequences; ++s) {
        rows += lengths[static_cast<std::size_t>(s)];
        offsets[s + 1] = static_cast<int32_t>(rows);
        context[s] = static_cast<int32_t>(contexts[static_cast<std::size_t>(s)]);
    }
}

std::string list(const std::vector<long>& numbers) {
    std::string text;
    for (const long n : numbers) text += (text.empty() ? "" : ",") + std::to_string(n);
    return text;
}

std::string describe(const std::string& kernel, std::initializer_list<std::pair<const char*, long>> sizes) {
    std::string text = kernel;
    for (const auto& [name, value] : sizes) text += std::string(" ") + name + "=" + std::to_string(value);
    return text;
}

namespace {

std::string difference(const Floats& actual, const Floats& expected, double tolerance) {
    if (actual.overrun()) return "wrote in front of an output";
    double scale = 1e-30;
    for (long i = 0; i < expected.size(); ++i)
        if (std::isfinite(expected[i])) scale = std::max(scale, std::fabs(static_cast<double>(expected[i])));
    double worst = 0.0;
    long place = -1;
    for (long i = 0; i < expected.size(); ++i) {
        const float a = actual[i], e = expected[i];
        if (a == e || (std::isnan(a) && std::isnan(e))) continue;
        const double error = std::fabs(static_cast<double>(a) - static_cast<double>(e)) / scale;
        if (!(error <= worst)) worst = std::isnan(error) ? INFINITY : error, place = i;
    }
    if (worst <= tolerance) return "";
    char text[200];
    std::snprintf(text, sizeof text, "error %.3g (allowed %.3g) at %ld of %ld: %.9g, plain %.9g", worst, tolerance, place, expected.size(),
                  static_cast<double>(actual[place]), static_cast<double>(expected[place]));
    return text;
}

std::string difference(const Outputs& actual, const Outputs& expected, double tolerance) {
    for (std::size_t i = 0; i < expected.size(); ++i)
        if (const std::string wrong = difference(actual[i], expected[i], tolerance); !wrong.empty())
            return "output " + std::to_string(i) + ": " + wrong;
    return "";
}

}  // namespace

void Suite::each(const std::string& what, const std::function<std::string(Isa, Pool&)>& body) {
    const int several = 2 + static_cast<int>(cases_++ % 3);
    for (const Isa isa : isas_)
        for (const int threads : {1, several}) {
            Pool pool(threads);
            pool.poison(true);
            ++runs_;
            const std::string wrong = body(isa, pool);
            if (wrong.empty()) continue;
            ++failures_;
            std::fprintf(stderr, "%s, %s, %d threads: %s\n", isa_name(isa).c_str(), what.c_str(), threads, wrong.c_str());
        }
}

void Suite::check(const std::string& what, double tolerance, const Outputs& start, const Run& run) {
    Outputs plain = start;
    {
        Pool pool(1);
        run(kernels_of(Isa::serial), pool, plain);
    }
    std::optional<Outputs> alone;
    each(what, [&](Isa isa, Pool& pool) -> std::string {
        Outputs actual = start;
        run(kernels_of(isa), pool, actual);
        const bool first = pool.threads() == 1;
        const std::string wrong = first ? difference(actual, plain, tolerance) : difference(actual, *alone, 0.0);
        if (first) alone.emplace(actual);
        return wrong.empty() || first ? wrong : "not as on one thread: " + wrong;
    });
}

namespace {

long run_all(const std::vector<Isa>& isas, bool loud) {
    Suite suite(isas);
    dense_cases(suite);
    coded_cases(suite);
    sequence_cases(suite);
    if (loud) std::printf("%ld runs, %ld failures\n", suite.runs(), suite.failures());
    return suite.failures();
}

// Operations of one pool that several threads start at once, as requests of several users do.
long share_a_pool(Isa isa, int threads) {
    const long rows = 40, inputs = 65, outputs = 70;
    Random random(1);
    const Floats x = random.floats(rows * inputs), weight = random.floats(outputs * inputs);
    const auto product = [&](Pool& pool, Floats& out) {
        kernels_of(isa).linear(pool, Linear{x.data(), weight.data(), false, nullptr, nullptr, Activation::none, out.data(), rows, inputs, outputs});
    };
    Pool alone(1), shared(3);
    shared.poison(true);
    Floats expected(rows * outputs);
    product(alone, expected);
    std::atomic<long> failures{0};
    std::vector<std::thread> users;
    for (int user = 0; user < threads; ++user)
        users.emplace_back([&] {
            for (int i = 0; i < 20; ++i) {
                Floats out(rows * outputs);
                {
                    const auto lock = shared.acquire();
                    product(shared, out);
                }
                if (difference(out, expected, 0.0).empty()) continue;
                failures.fetch_add(1);
                std::fprintf(stderr, "%s, linear in a shared pool: wrong\n", isa_name(isa).c_str());
            }
        });
    for (auto& user : users) user.join();
    return failures.load();
}

long run_together(const std::vector<Isa>& isas, int threads) {
    std::atomic<long> failures{0};
    std::vector<std::thread> suites;
    for (int i = 0; i < threads; ++i) suites.emplace_back([&, i] { failures.fetch_add(run_all(isas, i == 0)); });
    for (auto& suite : suites) suite.join();
    return failures.load() + share_a_pool(isas.back(), threads);
}

int main_of(int count, char** words) {
    std::vector<Isa> isas;
    int together = 0;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        if (word == "--together" && i + 1 < count) {
            together = std::atoi(words[++i]);
            continue;
        }
        const std::size_t before = isas.size();
        for (const Isa isa : usable_isas())
            if (isa_name(isa) == word) isas.push_back(isa);
        if (isas.size() == before) {
            std::fprintf(stderr, "%s is no instruction set of this machine\n", word.c_str());
            return 2;
        }
    }
    if (isas.empty()) isas = usable_isas();
    std::printf("instruction sets:");
    for (const Isa isa : isas) std::printf(" %s", isa_name(isa).c_str());
    std::printf("\n");
    std::fflush(stdout);
    return (together > 0 ? run_together(isas, together) : run_all(isas, true)) == 0 ? 0 : 1;
}

}  // namespace
}  // namespace pocketvlm::test

int main(int count, char** words) { return pocketvlm::test::main_of(count, words); }
