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

Batch::Batch(Random& random, const std::vector<int64_t>& lengths, const std::vector<int64_t>& contexts)
    : sequences(static_cast<int64_t>(lengths.size())),
      slots_held(sequences + 2),
      offsets(sequences + 1),
      context_lens(sequences),
      slots(random.permutation(sequences, slots_held)) {
    offsets[0] = 0;
    for (int64_t s = 0; s < sequences; ++s) {
        rows += lengths[static_cast<std::size_t>(s)];
        offsets[s + 1] = static_cast<int32_t>(rows);
        context_lens[s] = static_cast<int32_t>(contexts[static_cast<std::size_t>(s)]);
    }
}

std::string list(const std::vector<int64_t>& numbers) {
    std::string text;
    for (const int64_t n : numbers) text += (text.empty() ? "" : ",") + std::to_string(n);
    return text;
}

std::string describe(const std::string& kernel, std::initializer_list<std::pair<const char*, int64_t>> sizes) {
    std::string text = kernel;
    for (const auto& [name, value] : sizes) text += std::string(" ") + name + "=" + std::to_string(value);
    return text;
}

namespace {

std::string difference(const Floats& actual, const Floats& expected, double tolerance) {
    if (actual.overrun()) return "wrote in front of an output";
    double scale = 1e-30;
    for (int64_t i = 0; i < expected.size(); ++i)
        if (std::isfinite(expected[i])) scale = std::max(scale, std::fabs(static_cast<double>(expected[i])));
    double worst = 0.0;
    int64_t index = -1;
    for (int64_t i = 0; i < expected.size(); ++i) {
        const float a = actual[i], e = expected[i];
        if (a == e || (std::isnan(a) && std::isnan(e))) continue;
        const double error = std::fabs(static_cast<double>(a) - static_cast<double>(e)) / scale;
        if (!(error <= worst)) worst = std::isnan(error) ? INFINITY : error, index = i;
    }
    if (worst <= tolerance) return "";
    char text[200];
    std::snprintf(text, sizeof text, "error %.3g (allowed %.3g) at %lld of %lld: %.9g, plain %.9g", worst, tolerance,
                  static_cast<long long>(index), static_cast<long long>(expected.size()), static_cast<double>(actual[index]), static_cast<double>(expected[index]));
    return text;
}

std::string difference(const Outputs& actual, const Outputs& expected, double tolerance) {
    for (std::size_t i = 0; i < expected.size(); ++i)
        if (const std::string wrong = difference(actual[i], expected[i], tolerance); !wrong.empty())
            return "output " + std::to_string(i) + ": " + wrong;
    return "";
}

}  // namespace

void Suite::each(const std::string& what, const std::function<std::string(const Kernels&, Pool&)>& body) {
    const int several = 2 + static_cast<int>(cases_++ % 3);
    for (const InstructionSet* set : sets_)
        for (const int threads : {1, several}) {
            Pool pool(threads);
            pool.poison(true);
            ++runs_;
            const std::string wrong = body(set->kernels, pool);
            if (wrong.empty()) continue;
            ++failures_;
            std::fprintf(stderr, "%s, %s, %d threads: %s\n", std::string(set->name).c_str(), what.c_str(), threads, wrong.c_str());
        }
}

void Suite::check(const std::string& what, double tolerance, const Outputs& start, const Run& run) {
    Outputs plain = start;
    {
        Pool pool(1);
        run(plain_kernels(), pool, plain);
    }
    std::optional<Outputs> alone;
    each(what, [&](const Kernels& kernels, Pool& pool) -> std::string {
        Outputs actual = start;
        run(kernels, pool, actual);
        const bool first = pool.threads() == 1;
        const std::string wrong = first ? difference(actual, plain, tolerance) : difference(actual, *alone, 0.0);
        if (first) alone.emplace(actual);
        return wrong.empty() || first ? wrong : "not as on one thread: " + wrong;
    });
}

void Suite::equal(const std::string& what, const Floats& actual, const Floats& expected, double tolerance) {
    ++runs_;
    const std::string wrong = difference(actual, expected, tolerance);
    if (wrong.empty()) return;
    ++failures_;
    std::fprintf(stderr, "%s: %s\n", what.c_str(), wrong.c_str());
}

namespace {

int64_t run_all(const std::vector<const InstructionSet*>& sets, bool loud) {
    Suite suite(sets);
    dense_cases(suite);
    quantized_cases(suite);
    sequence_cases(suite);
    if (loud) std::printf("%lld runs, %lld failures\n", static_cast<long long>(suite.runs()), static_cast<long long>(suite.failures()));
    return suite.failures();
}

// A set is usable if and only if the machine has every feature that it needs: try machines without one of the features.
int64_t choose_by_features() {
    std::vector<std::string_view> all;
    for (const InstructionSet& set : instruction_sets()) all.insert(all.end(), set.needs.begin(), set.needs.end());
    int64_t failures = 0;
    all.push_back("none");
    for (const std::string_view missing : std::vector(all)) {
        std::vector<std::string_view> features = all;
        std::erase(features, missing);
        std::vector<const InstructionSet*> expected;
        for (const InstructionSet& set : instruction_sets())
            if (std::ranges::find(set.needs, missing) == set.needs.end()) expected.push_back(&set);
        bool explained = true;
        for (const InstructionSet& set : instruction_sets()) {
            const bool usable = std::ranges::find(expected, &set) != expected.end();
            explained = explained && why_unusable(set, features).empty() == usable;
        }
        if (usable_instruction_sets(features) == expected && explained) continue;
        ++failures;
        std::fprintf(stderr, "wrong instruction sets for a machine without %s\n", std::string(missing).c_str());
    }
    return failures;
}

// Operations of one pool that several threads start at once, as requests of several users do.
int64_t share_a_pool(const InstructionSet& set, int threads) {
    const int64_t rows = 40, inputs = 65, outputs = 70;
    Random random(1);
    const Floats x = random.floats(rows * inputs), weight = random.floats(outputs * inputs);
    const auto product = [&](Pool& pool, Floats& out) {
        set.kernels.linear(pool, Linear{x.data(), weight.data(), false, nullptr, nullptr, Activation::none, out.data(), rows, inputs, outputs});
    };
    Pool alone(1), shared(3);
    shared.poison(true);
    Floats expected(rows * outputs);
    product(alone, expected);
    std::atomic<int64_t> failures{0};
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
                std::fprintf(stderr, "%s, linear in a shared pool: wrong\n", std::string(set.name).c_str());
            }
        });
    for (auto& user : users) user.join();
    return failures.load();
}

int64_t run_together(const std::vector<const InstructionSet*>& sets, int threads) {
    std::atomic<int64_t> failures{0};
    std::vector<std::thread> suites;
    for (int i = 0; i < threads; ++i) suites.emplace_back([&, i] { failures.fetch_add(run_all(sets, i == 0)); });
    for (auto& suite : suites) suite.join();
    return failures.load() + share_a_pool(*sets.back(), threads);
}

int main_of(int count, char** words) {
    std::vector<const InstructionSet*> sets;
    int together = 0;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        if (word == "--together" && i + 1 < count) {
            together = std::atoi(words[++i]);
            continue;
        }
        const std::size_t before = sets.size();
        for (const InstructionSet* set : usable_instruction_sets())
            if (set->name == word) sets.push_back(set);
        if (sets.size() == before) {
            std::fprintf(stderr, "%s is no instruction set of this machine\n", word.c_str());
            return 2;
        }
    }
    if (sets.empty()) sets = usable_instruction_sets();
    std::printf("instruction sets:");
    for (const InstructionSet* set : sets) std::printf(" %s", std::string(set->name).c_str());
    std::printf("\n");
    std::fflush(stdout);
    if (choose_by_features() + tile_cases(sets) > 0) return 1;
    return (together > 0 ? run_together(sets, together) : run_all(sets, true)) == 0 ? 0 : 1;
}

}  // namespace
}  // namespace pocketvlm::test

int main(int count, char** words) { return pocketvlm::test::main_of(count, words); }
