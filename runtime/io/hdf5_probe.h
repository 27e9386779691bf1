#pragma once

#include <filesystem>

namespace loci {

/// Reads the whole file in a child process, so that a malformed one cannot crash or hang this process; of data sets
/// that lie in one piece, which cannot lead the library astray, the ends alone. Throws InputError where the child meets
/// an error or is lost, or makes no progress for `seconds`. A file that was found good is not read again while it stays
/// as it is (device, inode, size, time). So call it on files that users hand in before other threads use HDF5: the
/// child would wait for ever for locks that they hold. The child ends with this process, however that ends.
void probe_hdf5(const std::filesystem::path& path, int seconds = 60);

}  // namespace loci
