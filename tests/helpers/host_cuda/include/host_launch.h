// How a launch reaches the kernels of one text: the runner appends a table of them to the text.
#pragma once

#include <string>
#include <tuple>
#include <utility>

#include "host_cuda.h"

namespace dcnlab_host {

// One argument as Python hands it over; the layout is known to runner.py.
struct Argument {
    const void* value;      // where the pointer, number or struct lies
    uint64_t size;          // its bytes
    int32_t code;           // of a number: numpy's letter for its type, 'E' for bfloat16; 'p' pointer; 'V' struct
    int32_t element_code;   // of a pointer: its tensor's element type in the same letters, 0 for null
};

// The layout is known to runner.py.
struct Launch {
    uint32_t grid[3], block[3];
    uint64_t shared_bytes;
    int32_t order;  // 0 forward, 1 reverse, 2 random
    uint32_t arguments;
    uint64_t seed;
    const Argument* argument;
};

using Body = void (*)(void* closure);

// Runs every thread of every block; returns what went wrong, or nothing.
std::string run_grid(const Launch& launch, Body body, void* closure);

// What a counting build (host_counting.cpp) is told; null in all others.
void thread_waits(bool at_barrier) __attribute__((weak));
void block_ends() __attribute__((weak));

bool is_shared(const void* address);

struct Kernel {
    const char* name;
    std::string (*run)(const Launch&);
};
extern const Kernel kernels[];  // ends with a null name

// Whether a C++ number type is the one that the letter stands for; signedness may differ.
template <class T>
bool is_type(int code) {
    if constexpr (std::is_same_v<T, double>) return code == 'd';
    else if constexpr (std::is_same_v<T, float>) return code == 'f';
    else if constexpr (std::is_same_v<T, __half>) return code == 'e';
    else if constexpr (std::is_same_v<T, __nv_bfloat16>) return code == 'E';
    else if constexpr (std::is_same_v<T, bool>) return code == '?';
    else if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) {
        const char* letters = sizeof(T) == 1 ? "bB?" : sizeof(T) == 2 ? "hH" : sizeof(T) == 4 ? "iI" : "lLqQ";
        return code != 0 && strchr(letters, code) != nullptr;
    } else return false;
}

template <class T>
std::string argument_problem(const Argument& argument) {
    if constexpr (std::is_pointer_v<T>) {
        using Element = std::remove_cv_t<std::remove_pointer_t<T>>;
        if (argument.code != 'p') return "the kernel declares a pointer";
        // Bytes, void and vector types may view any tensor.
        constexpr bool typed = (std::is_arithmetic_v<Element> && sizeof(Element) > 1) ||
                               std::is_same_v<Element, __half> || std::is_same_v<Element, __nv_bfloat16>;
        if (typed && argument.element_code != 0 && !is_type<Element>(argument.element_code))
            return "the tensor's elements are not of the type that the kernel's pointer names";
    } else if constexpr (std::is_class_v<T> && !std::is_same_v<T, __half> && !std::is_same_v<T, __nv_bfloat16>) {
        if (argument.code != 'V') return "the kernel declares a struct";
        if (argument.size != sizeof(T))
            return "the record has " + std::to_string(argument.size) + " bytes, the kernel's struct " + std::to_string(sizeof(T));
    } else if (!is_type<T>(argument.code)) {
        return "the number is not of the type that the kernel declares (" + std::to_string(sizeof(T)) + " bytes, " +
               (std::is_floating_point_v<T> ? "floating" : "integral") + ")";
    }
    return "";
}

template <class T>
T load(const Argument& argument) {
    T value;
    memcpy(&value, argument.value, sizeof(T));
    return value;
}

template <auto kernel, class Parameters>
struct Entry;

template <auto kernel, class... Parameter>
struct Entry<kernel, void (*)(Parameter...)> {
    static std::string run(const Launch& launch) {
        return run(launch, std::index_sequence_for<Parameter...>());
    }

    template <size_t... index>
    static std::string run(const Launch& launch, std::index_sequence<index...>) {
        if (launch.arguments != sizeof...(Parameter))
            return "takes " + std::to_string(sizeof...(Parameter)) + " arguments, not " + std::to_string(launch.arguments);
        std::string problem;
        ((problem.empty() && !(problem = argument_problem<Parameter>(launch.argument[index])).empty()
              ? void(problem = "argument " + std::to_string(index) + ": " + problem)
              : void()),
         ...);
        if (!problem.empty()) return problem;
        std::tuple<Parameter...> values(load<Parameter>(launch.argument[index])...);
        return run_grid(
            launch, [](void* closure) { std::apply(kernel, *static_cast<std::tuple<Parameter...>*>(closure)); }, &values);
    }
};

}  // namespace dcnlab_host

#define DCNLAB_KERNEL(name) {#name, &dcnlab_host::Entry<&name, decltype(&name)>::run}
