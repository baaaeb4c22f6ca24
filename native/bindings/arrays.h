// Arrays as the bindings see them: the memory of a NumPy array, checked, without a copy.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <string>
#include <type_traits>

namespace pocketvlm {

namespace nb = nanobind;

[[noreturn]] inline void refuse(const std::string& text) { throw nb::value_error(text.c_str()); }

// The bits of a float16 number.
enum class Float16 : uint16_t {};

// A C-contiguous array of T held for the time of a call; T const for reading. `name` is the argument's, for messages.
template <class T>
class Array {
  public:
    Array(nb::handle object, const char* name) : name_(name) {
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (std::is_const_v<T> ? 0 : PyBUF_WRITABLE))) {
            PyErr_Clear();
            refuse(std::string(name) + " must be a C-contiguous" + (std::is_const_v<T> ? "" : ", writable") + " array of " + dtype() +
                   ", not " + nb::inst_name(object).c_str());
        }
        if (!of_type(view_)) {
            const std::string format = view_.format ? view_.format : "bytes";
            PyBuffer_Release(&view_);
            refuse(std::string(name) + " must have dtype " + dtype() + ", not the one with format '" + format + "'");
        }
    }
    ~Array() { PyBuffer_Release(&view_); }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;

    T* data() const { return static_cast<T*>(view_.buf); }
    int dims() const { return view_.ndim; }
    int64_t dim(int i) const { return static_cast<int64_t>(view_.shape[i]); }
    int64_t size() const { return static_cast<int64_t>(view_.len / view_.itemsize); }

    // Raise unless the shape is this one; -1 stands for any length.
    template <class... Lengths>
    const Array& shaped(Lengths... lengths) const {
        const int64_t wanted[] = {static_cast<int64_t>(lengths)...};
        constexpr int count = sizeof...(lengths);
        bool same = view_.ndim == count;
        for (int i = 0; same && i < count; ++i) same = wanted[i] < 0 || wanted[i] == dim(i);
        if (!same) misshapen(wanted, count);
        return *this;
    }

    // Whether a buffer holds elements of T.
    static bool of_type(const Py_buffer& view) {
        using Plain = std::remove_const_t<T>;
        if (view.itemsize != sizeof(T) || !view.format) return false;
        const char* f = view.format;
        if (*f == '@' || *f == '=' || *f == '<' || *f == '^') ++f;
        if (f[0] == '\0' || f[1] != '\0') return false;
        if (std::is_same_v<Plain, float>) return *f == 'f';
        if (std::is_same_v<Plain, int32_t>) return *f == 'i' || *f == 'l';
        if (std::is_same_v<Plain, int8_t>) return *f == 'b';
        if (std::is_same_v<Plain, Float16>) return *f == 'e';
        return *f == (std::is_same_v<Plain, uint16_t> ? 'H' : 'B');
    }

  private:
    static const char* dtype() {
        using Plain = std::remove_const_t<T>;
        if (std::is_same_v<Plain, float>) return "float32";
        if (std::is_same_v<Plain, int32_t>) return "int32";
        if (std::is_same_v<Plain, int8_t>) return "int8";
        if (std::is_same_v<Plain, Float16>) return "float16";
        return std::is_same_v<Plain, uint16_t> ? "uint16" : "uint8";
    }

    [[noreturn]] void misshapen(const int64_t* wanted, int count) const {
        std::string text = std::string(name_) + " must have shape [";
        for (int i = 0; i < count; ++i) text += (i ? ", " : "") + (wanted[i] < 0 ? std::string("any") : std::to_string(wanted[i]));
        text += "], not [";
        for (int i = 0; i < view_.ndim; ++i) text += (i ? ", " : "") + std::to_string(dim(i));
        refuse(text + "]");
    }

    const char* name_;
    Py_buffer view_;
};

// Whether an object is an array of T.
template <class T>
bool has_type(nb::handle object) {
    Py_buffer view;
    if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)) {
        PyErr_Clear();
        return false;
    }
    const bool same = Array<const T>::of_type(view);
    PyBuffer_Release(&view);
    return same;
}

using Floats = Array<const float>;
using Output = Array<float>;
using Ints = Array<const int32_t>;

// Each of n indices in [0, limit).
inline void check_indices(const int32_t* p, int64_t n, const char* name, int64_t limit) {
    for (int64_t i = 0; i < n; ++i)
        if (p[i] < 0 || p[i] >= limit)
            refuse(std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(p[i]) + ", outside [0, " + std::to_string(limit) +
                   ")");
}

}  // namespace pocketvlm
