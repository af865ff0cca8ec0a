// The kernels' own `#include <cuda_bf16.h>` finds this on the CPU; the type is in host_cuda.h.
#pragma once
#include "host_cuda.h"
