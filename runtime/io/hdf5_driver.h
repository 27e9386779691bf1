#pragma once

#include <hdf5.h>

#include <memory>

namespace loci {

/// What became of the writes to an HDF5 file: 0, or the number (errno) of the first error.
struct H5WriteOutcome {
  int error = 0;
};

/// Makes files that are created with the property list `access` be written by a driver that never fails towards the
/// library. HDF5 does not survive a failed write: it crashes when the file is closed, or later. So the driver keeps the
/// first error in `outcome` and goes on as if all was well. After an error, what the library may read again is kept in
/// memory, and the rest is dropped. The writer asks `outcome` after each step, and after the file is closed.
void set_surviving_driver(hid_t access, const std::shared_ptr<H5WriteOutcome>& outcome);

}  // namespace loci
