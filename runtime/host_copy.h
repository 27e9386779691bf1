#pragma once

#include <cstddef>
#include <vector>

namespace loci {

/// Bytes of device memory on their way to the host. Must not outlive the context that copies them.
class HostCopy {
 public:
  virtual ~HostCopy() = default;
  /// Waits until they are there, but for nothing that was issued after the copy. They live as long as this object.
  virtual const std::byte* wait() = 0;
};

/// A copy that is made at once, where device memory is the host's.
class ImmediateCopy final : public HostCopy {
 public:
  ImmediateCopy() = default;
  ImmediateCopy(const void* source, size_t bytes)
      : bytes_(static_cast<const std::byte*>(source), static_cast<const std::byte*>(source) + bytes) {}
  const std::byte* wait() override { return bytes_.data(); }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace loci
