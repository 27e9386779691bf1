#pragma once

/// The part of the CUDA runtime that runtime/ranks/device_communicator_nccl.cpp uses, for a build of it in which NCCL
/// is fake_nccl.cpp: its GPUs are host memory, and a stream is what the operations of one communicator wait in.

enum cudaError_t { cudaSuccess = 0, cudaErrorUnknown = 999, cudaErrorNotReady = 600 };

struct FakeStream;
using cudaStream_t = FakeStream*;

cudaError_t cudaSetDevice(int device);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t status);
