// A program around one text, so that the sanitizers watch it from its first instruction: the launch comes in by standard input,
// the tensors' memory goes out by standard output. The format is runner.py's.
#include <cstdlib>
#include <vector>

#include "host_launch.h"

extern "C" const char* dcnlab_run(const char* name, const dcnlab_host::Launch* launch);

namespace {

void read_bytes(void* to, size_t bytes) {
    if (bytes != 0 && fread(to, 1, bytes, stdin) != bytes) {
        fputs("the launch ended early\n", stderr);
        exit(3);
    }
}

template <class T>
T read() {
    T value;
    read_bytes(&value, sizeof(T));
    return value;
}

}  // namespace

int main() {
    std::vector<char> name(read<uint64_t>() + 1);
    read_bytes(name.data(), name.size() - 1);
    dcnlab_host::Launch launch = {};
    read_bytes(&launch, offsetof(dcnlab_host::Launch, argument));

    // Each tensor's memory is an allocation of its own and of its exact size, aligned as CUDA's allocator aligns.
    std::vector<std::pair<char*, size_t>> memories(read<uint64_t>());
    for (auto& [memory, bytes] : memories) {
        bytes = read<uint64_t>();
        void* allocated = nullptr;
        if (posix_memalign(&allocated, 256, bytes) != 0) return 3;
        memory = static_cast<char*>(allocated);
        read_bytes(memory, bytes);
    }

    std::vector<dcnlab_host::Argument> arguments(launch.arguments);
    std::vector<std::vector<char>> values(launch.arguments);
    for (size_t index = 0; index < arguments.size(); ++index) {
        auto& argument = arguments[index];
        argument.code = read<int32_t>();
        argument.element_code = read<int32_t>();
        argument.size = read<uint64_t>();
        values[index].resize(argument.size);
        read_bytes(values[index].data(), argument.size);
        argument.value = values[index].data();
        if (argument.code == 'p') {  // its value is an offset into the memory of this number
            const int64_t number = read<int64_t>();
            char* pointer = nullptr;
            if (number >= 0) {
                uint64_t offset;
                memcpy(&offset, argument.value, sizeof(offset));
                pointer = memories[size_t(number)].first + offset;
            }
            memcpy(values[index].data(), &pointer, sizeof(pointer));
        }
    }
    launch.argument = arguments.data();

    if (const char* message = dcnlab_run(name.data(), &launch)) {
        fputs(message, stderr);
        return 2;
    }
    for (const auto& [memory, bytes] : memories) fwrite(memory, 1, bytes, stdout);
    return 0;
}
