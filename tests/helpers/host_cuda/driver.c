/* A stand-in for libcuda and for the few functions of CUDA's runtime that CuPy asks on its way to a launch.
 *
 * It has no GPU: modules and functions are numbers that Python hands out, and a launch is a call of Python's, or only
 * counted where Python gave no function. driver.py builds it, loads it under libcuda's name and installs it.
 */
#include <stddef.h>

typedef int Result;
enum { SUCCESS = 0, NO_DEVICE = 100, MAJOR = 75, MINOR = 76, VERSION = 13000, DEVICES = 2 };

/* What Python sets and reads. */
int standin_device = 0, standin_architecture = 90;
long standin_launches = 0;
long (*standin_load)(const void *image) = 0;
long (*standin_function)(long module, const char *name) = 0;
int (*standin_launch)(long function, const unsigned *sizes, unsigned shared, void *stream, void **parameters) = 0;
int (*standin_attribute)(long function, int attribute, int value) = 0;

/* The driver. cuInit finds no device, so that torch goes on without CUDA. */
Result cuInit(unsigned flags) { return NO_DEVICE; }
Result cuDriverGetVersion(int *version) { return *version = VERSION, SUCCESS; }
Result cuGetErrorName(Result error, const char **text) { return *text = "STAND_IN", SUCCESS; }
Result cuGetErrorString(Result error, const char **text) { return *text = "the stand-in driver refused", SUCCESS; }
Result cuModuleLoadData(void **module, const void *image) {
    return *module = (void *)(standin_load ? standin_load(image) : 1L), SUCCESS;
}
Result cuModuleUnload(void *module) { return SUCCESS; }
Result cuModuleGetFunction(void **function, void *module, const char *name) {
    return *function = (void *)(standin_function ? standin_function((long)module, name) : 1L), SUCCESS;
}
Result cuFuncSetAttribute(void *function, int attribute, int value) {
    return standin_attribute ? standin_attribute((long)function, attribute, value) : SUCCESS;
}
Result cuFuncGetAttribute(int *value, int attribute, void *function) { return *value = 0, SUCCESS; }
Result cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void *stream, void **parameters, void **extra) {
    const unsigned sizes[6] = {gx, gy, gz, bx, by, bz};
    ++standin_launches;
    return standin_launch ? standin_launch((long)function, sizes, shared, stream, parameters) : SUCCESS;
}

/* The runtime, which CuPy has linked into itself: its functions are made to jump here. */
Result standin_cudaGetDevice(int *device) { return *device = standin_device, SUCCESS; }
Result standin_cudaSetDevice(int device) { return standin_device = device, SUCCESS; }
Result standin_cudaGetDeviceCount(int *count) { return *count = DEVICES, SUCCESS; }
Result standin_cudaDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == MAJOR ? standin_architecture / 10 : attribute == MINOR ? standin_architecture % 10 : 0;
    return SUCCESS;
}
Result standin_cudaMemGetInfo(size_t *available, size_t *total) { return *available = *total = 1ull << 36, SUCCESS; }
Result standin_cudaRuntimeGetVersion(int *version) { return *version = VERSION, SUCCESS; }
Result standin_cudaDriverGetVersion(int *version) { return *version = VERSION, SUCCESS; }
