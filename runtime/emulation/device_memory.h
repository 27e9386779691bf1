#pragma once

/// The memory of the emulated device.
namespace loci::emulation {

/// While one is alive, host code and emulated kernels may touch device memory. At any other time a host access ends the
/// process, as it would on a machine with a GPU. (Under the sanitizers device memory is always accessible: there it is
/// plain host memory, so that overruns are found.)
class DeviceMemoryAccess {
 public:
  DeviceMemoryAccess();
  ~DeviceMemoryAccess();
  DeviceMemoryAccess(const DeviceMemoryAccess&) = delete;
  DeviceMemoryAccess& operator=(const DeviceMemoryAccess&) = delete;
};

}  // namespace loci::emulation
