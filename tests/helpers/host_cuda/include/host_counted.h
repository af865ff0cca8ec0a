// A float that counts: in a counting build the prelude's `real` is Counted<float>, so that the kernels' own text counts its
// additions, multiplications and divisions. A fused multiply-add is one of each of the first two.
#pragma once

#include <stdint.h>

#include <type_traits>

namespace dcnlab_host {

struct FloatOperations {
    uint64_t additions, multiplications, divisions;
};
extern FloatOperations float_operations;

template <class T>
struct Counted {
    T value;

    Counted() = default;
    template <class U, class = std::enable_if_t<std::is_arithmetic_v<U>>>
    Counted(U v) : value(T(v)) {}
    operator T() const { return value; }
};

#define DCNLAB_OPERATOR(symbol, counter)                                        \
    template <class T>                                                         \
    Counted<T> operator symbol(Counted<T> a, Counted<T> b) {                   \
        ++float_operations.counter;                                            \
        return a.value symbol b.value;                                         \
    }                                                                          \
    template <class T, class U, class = std::enable_if_t<std::is_arithmetic_v<U>>> \
    Counted<T> operator symbol(Counted<T> a, U b) {                            \
        return a symbol Counted<T>(b);                                         \
    }                                                                          \
    template <class T, class U, class = std::enable_if_t<std::is_arithmetic_v<U>>> \
    Counted<T> operator symbol(U a, Counted<T> b) {                            \
        return Counted<T>(a) symbol b;                                         \
    }                                                                          \
    template <class T, class U>                                                \
    Counted<T>& operator symbol##=(Counted<T>& a, U b) {                       \
        return a = a symbol Counted<T>(b);                                     \
    }
DCNLAB_OPERATOR(+, additions)
DCNLAB_OPERATOR(-, additions)
DCNLAB_OPERATOR(*, multiplications)
DCNLAB_OPERATOR(/, divisions)
#undef DCNLAB_OPERATOR

}  // namespace dcnlab_host
