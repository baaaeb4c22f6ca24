// Cases of tile registers: every operation at every shape, in several threads, after a fork; and the self-test.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

#include "kit.h"
#include "tile_operations.h"

namespace pocketvlm::test {
namespace {

struct Operations {
    TileProducts* products;
    TileRows* rows;
};

Operations operations_of([[maybe_unused]] const InstructionSet& set) {
#if defined(POCKETVLM_TEST_TILES)
    if (set.name == "amx") return {amx::tile_products, amx::tile_rows};
    if (set.name == "plaintiles") return {plaintiles::tile_products, plaintiles::tile_rows};
#endif
    return {nullptr, nullptr};
}

// The first thing that is wrong, or "".
std::string check_operations(const Operations& operations) {
    Array<uint8_t> a(2048), b(2048), sums(2048);
    const TileMemory memory{a.data() + a.size(), b.data() + b.size(), sums.data() + sums.size()};
    for (int64_t rows = 1; rows <= 16; ++rows)
        for (const int64_t columns : {1, 2, 7, 15, 16})
            for (int64_t words = 1; words <= 16; ++words)
                if (const char* wrong = operations.products(memory, rows, columns, words, static_cast<uint64_t>(rows * columns * words)))
                    return describe(wrong, {{"rows", rows}, {"columns", columns}, {"words", words}});
    for (int64_t rows = 1; rows <= 16; ++rows)
        for (const auto& [bytes, stride] : {std::pair<int64_t, int64_t>{64, 64}, {64, 100}, {12, 13}, {4, 127}})
            if (const char* wrong = operations.rows(memory, rows, bytes, stride)) return describe(wrong, {{"rows", rows}, {"bytes", bytes}});
    return "";
}

int64_t report(const InstructionSet& set, const std::string& where, const std::string& wrong) {
    if (wrong.empty()) return 0;
    std::fprintf(stderr, "%s, tiles %s: %s\n", std::string(set.name).c_str(), where.c_str(), wrong.c_str());
    return 1;
}

}  // namespace

int64_t tile_cases(const std::vector<const InstructionSet*>& sets) {
    int64_t failures = 0;
    for (const InstructionSet* set : sets) {
        const Operations operations = operations_of(*set);
        if ((operations.products != nullptr) != (set->tile_self_test != nullptr)) failures += report(*set, "", "no test of its operations");
        if (!operations.products) continue;
        failures += report(*set, "self-test", set->tile_self_test(0) ? "" : "failed");
        failures += report(*set, "self-test", set->tile_self_test(1) ? "did not see a wrong sum" : "");
        failures += report(*set, "alone", check_operations(operations));
        std::vector<std::thread> threads;
        std::vector<std::string> wrong(3);
        for (std::string& of_thread : wrong) threads.emplace_back([&] { of_thread = check_operations(operations); });
        for (std::thread& thread : threads) thread.join();
        for (const std::string& of_thread : wrong) failures += report(*set, "in threads", of_thread);
        const pid_t child = fork();
        if (child == 0) _exit(check_operations(operations).empty() ? 0 : 1);
        int status = 1;
        waitpid(child, &status, 0);
        failures += report(*set, "after a fork", status == 0 ? "" : "wrong");
    }
    return failures;
}

}  // namespace pocketvlm::test
