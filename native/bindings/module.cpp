// The Python module pocketvlm._native: instruction sets and the runtime whose methods are the operations.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#if defined(__linux__)
#include <malloc.h>
#endif

#include "bindings/arrays.h"
#include "bindings/runtime.h"
#include "runtime/checksum.h"
#include "runtime/isa.h"

namespace pocketvlm {
namespace {

const InstructionSet& usable_set(const std::string& name) {
    std::string usable;
    for (const InstructionSet* set : usable_instruction_sets()) {
        if (set->name == name) return *set;
        if (!set->only_for_tests) usable += (usable.empty() ? "" : ", ") + std::string(set->name);
    }
    refuse("isa '" + name + "' cannot run here; usable: " + usable);
}

int checked_threads(int threads) {
    if (threads < 1 || threads > 1024) refuse("threads must be between 1 and 1024, not " + std::to_string(threads));
    return threads;
}

uint64_t checksum_of(Runtime& runtime, nb::handle array) {
    const Array<const uint8_t> bytes(array, "array");
    uint64_t sum = 0;
    runtime.run(bytes.size() / 4, [&](Pool& pool, const Kernels&) { sum = checksum(pool, bytes.data(), bytes.size()); });
    return sum;
}

}  // namespace

Runtime::Runtime(int threads, const std::string& isa) : pool_(checked_threads(threads)), kernels_(usable_set(isa).kernels) {}

}  // namespace pocketvlm

NB_MODULE(_native, m) {
    using namespace pocketvlm;
    nb::set_leak_warnings(false);
    m.def(
        "usable_isas",
        [](bool for_tests) {
            std::vector<std::string> names;
            for (const InstructionSet* set : usable_instruction_sets())
                if (set->only_for_tests == for_tests) names.emplace_back(set->name);
            return names;
        },
        nb::arg("for_tests") = false);
    m.def("unusable_isas", [] {
        std::map<std::string, std::string> reasons;
        for (const InstructionSet& set : instruction_sets())
            if (std::string reason = why_unusable(set, machine_features()); !reason.empty()) reasons.emplace(set.name, std::move(reason));
        return reasons;
    });
    nb::class_<Graph>(m, "Graph").def("__len__", &Graph::size);
    nb::class_<Runtime> runtime(m, "Runtime");
    runtime.def(nb::init<int, const std::string&>(), nb::arg("threads"), nb::arg("isa"))
        .def_prop_ro("threads", &Runtime::threads)
        .def("checksum", &checksum_of, nb::arg("array"), "A 64-bit checksum of an array of bytes; the same for any number of threads.")
        .def(
            "return_memory",
            [](Runtime&) {
#if defined(__GLIBC__)
                malloc_trim(0);
#endif
            },
            "Give memory that was freed back to the system (with glibc; elsewhere nothing).")
        .def("begin_capture", &Runtime::begin_capture, "Capture the operations of this thread from now on.")
        .def("end_capture", &Runtime::end_capture, "End the capture and return its graph.")
        .def("replay", &Runtime::replay, nb::arg("graph"), "Run the operations of a graph again, on the same memory.")
        .def("poison", &Runtime::poison, nb::arg("on"), "For tests: scratch memory starts as NaN in every operation.");
    runtime
        .def(
            "read_memory",
            [](Runtime& self, nb::handle data) {
                const Array<const float> floats(data, "data");
                self.run(1 << 30, [&](Pool& pool, const Kernels& kernels) { kernels.read_memory(pool, floats.data(), floats.size()); });
            },
            nb::arg("data"), "For the roofline: every thread reads its part of an array.")
        .def(
            "multiply",
            [](Runtime& self, bool bytes, int64_t rounds) {
                int64_t operations = 0;
                self.run(1 << 30, [&](Pool& pool, const Kernels& kernels) {
                    operations = (bytes ? kernels.multiply_bytes : kernels.multiply_floats)(pool, rounds);
                });
                return operations;
            },
            nb::arg("bytes"), nb::arg("rounds"), "For the roofline: products in registers alone; returns the multiplications and additions.");
    bind_quantized(m, runtime);
    bind_dense(runtime);
    bind_sequence(runtime);
}
