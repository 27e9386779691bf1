#include "kernels/cuda.h"
#include "kernels/cuda_reduce.h"
