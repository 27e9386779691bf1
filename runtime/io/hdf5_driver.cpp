#include "runtime/io/hdf5_driver.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <new>
#include <utility>
#include <vector>
#if H5_VERSION_GE(1, 14, 0)
#include <H5FDdevelop.h>
#endif

namespace loci {
namespace {

/// What the access property list carries.
struct Access {
  const std::shared_ptr<H5WriteOutcome>* outcome;
};

/// A write that came after the first error.
struct Kept {
  haddr_t address;
  std::vector<std::byte> bytes;
};

/// The library knows its first part.
struct File : H5FD_t {
  int descriptor = -1;
  haddr_t allocated_end = 0;
  haddr_t written_end = 0;
  std::shared_ptr<H5WriteOutcome> outcome;
  std::vector<Kept> kept;  // in their order
  size_t kept_data = 0;    // bytes
};

/// Of data that could not be written so much is kept. The library reads some of it again, such as the heaps of texts.
constexpr size_t kKeptData = size_t{64} << 20;

File* of(H5FD_t* file) { return static_cast<File*>(file); }
const File* of(const H5FD_t* file) { return static_cast<const File*>(file); }

void note_error(File* file, int error) {
  if (file->outcome->error == 0) file->outcome->error = error;
}

int open_flags(unsigned flags) {
  int made = O_CLOEXEC | ((flags & H5F_ACC_RDWR) != 0 ? O_RDWR : O_RDONLY);
  if ((flags & H5F_ACC_TRUNC) != 0) made |= O_TRUNC;
  if ((flags & H5F_ACC_CREAT) != 0) made |= O_CREAT;
  if ((flags & H5F_ACC_EXCL) != 0) made |= O_EXCL;
  return made;
}

H5FD_t* open_file(const char* name, unsigned flags, hid_t access, haddr_t) {
  const auto* settings = static_cast<const Access*>(H5Pget_driver_info(access));
  if (settings == nullptr) return nullptr;
  auto* file = new (std::nothrow) File;
  if (file == nullptr) return nullptr;
  file->outcome = *settings->outcome;
  file->descriptor = ::open(name, open_flags(flags), 0666);
  if (file->descriptor < 0) {
    // The library first looks whether there is a file: that there is none is no error.
    if ((flags & H5F_ACC_CREAT) != 0) note_error(file, errno);
    delete file;
    return nullptr;
  }
  const off_t end = ::lseek(file->descriptor, 0, SEEK_END);
  file->written_end = end > 0 ? static_cast<haddr_t>(end) : 0;
  return file;
}

herr_t close_file(H5FD_t* base) {
  File* file = of(base);
  // Network file systems may tell of a full disk here.
  if (::close(file->descriptor) != 0) note_error(file, errno);
  delete file;
  return 0;
}

herr_t query(const H5FD_t*, unsigned long* flags) {
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
           H5FD_FEAT_AGGREGATE_SMALLDATA;
  return 0;
}

haddr_t get_allocated_end(const H5FD_t* file, H5FD_mem_t) { return of(file)->allocated_end; }

herr_t set_allocated_end(H5FD_t* file, H5FD_mem_t, haddr_t address) {
  of(file)->allocated_end = address;
  return 0;
}

haddr_t get_written_end(const H5FD_t* file, H5FD_mem_t) { return of(file)->written_end; }

/// Lays over `buffer`, which holds [address, address + size), what was kept.
void lay_over(const File& file, haddr_t address, size_t size, std::byte* buffer) {
  for (const Kept& kept : file.kept) {
    const haddr_t first = std::max(address, kept.address);
    const haddr_t end = std::min(address + size, kept.address + kept.bytes.size());
    if (first < end) std::memcpy(buffer + (first - address), kept.bytes.data() + (first - kept.address), end - first);
  }
}

herr_t read_file(H5FD_t* base, H5FD_mem_t, hid_t, haddr_t address, size_t size, void* buffer) {
  const File* file = of(base);
  auto* bytes = static_cast<std::byte*>(buffer);
  size_t done = 0;
  while (done < size) {
    const ssize_t got = ::pread(file->descriptor, bytes + done, size - done, static_cast<off_t>(address + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  std::memset(bytes + done, 0, size - done);  // after the end of the file
  lay_over(*file, address, size, bytes);
  return 0;
}

/// False where the system refused, which is noted.
bool write_all(File* file, haddr_t address, size_t size, const std::byte* bytes) {
  while (size > 0) {
    const ssize_t written = ::pwrite(file->descriptor, bytes, size, static_cast<off_t>(address));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      note_error(file, written < 0 ? errno : ENOSPC);
      return false;
    }
    bytes += written;
    address += static_cast<haddr_t>(written);
    size -= static_cast<size_t>(written);
  }
  return true;
}

herr_t write_file(H5FD_t* base, H5FD_mem_t type, hid_t, haddr_t address, size_t size, const void* buffer) {
  File* file = of(base);
  const auto* bytes = static_cast<const std::byte*>(buffer);
  file->written_end = std::max(file->written_end, address + size);
  if (file->outcome->error == 0 && write_all(file, address, size, bytes)) return 0;
  if (type == H5FD_MEM_DRAW) {
    if (size > kKeptData - file->kept_data) return 0;
    file->kept_data += size;
  }
  try {
    file->kept.push_back(Kept{address, std::vector<std::byte>(bytes, bytes + size)});
  } catch (const std::bad_alloc&) {
    return -1;
  }
  return 0;
}

herr_t truncate(H5FD_t* base, hid_t, hbool_t) {
  File* file = of(base);
  if (file->written_end == file->allocated_end) return 0;
  if (file->outcome->error == 0 && ::ftruncate(file->descriptor, static_cast<off_t>(file->allocated_end)) != 0)
    note_error(file, errno);
  file->written_end = file->allocated_end;
  return 0;
}

H5FD_class_t made_class() {
  H5FD_class_t made{};
#if H5_VERSION_GE(1, 14, 0)
  made.version = H5FD_CLASS_VERSION;
  made.value = static_cast<H5FD_class_value_t>(512);  // the first of those that no registered driver has
#endif
  made.name = "loci";
  made.maxaddr = (haddr_t{1} << 63) - 1;
  made.fc_degree = H5F_CLOSE_WEAK;
  made.fapl_size = sizeof(Access);
  made.open = open_file;
  made.close = close_file;
  made.query = query;
  made.get_eoa = get_allocated_end;
  made.set_eoa = set_allocated_end;
  made.get_eof = get_written_end;
  made.read = read_file;
  made.write = write_file;
  made.truncate = truncate;
  constexpr H5FD_mem_t kKinds[H5FD_MEM_NTYPES] = H5FD_FLMAP_DICHOTOMY;
  std::copy(std::begin(kKinds), std::end(kKinds), std::begin(made.fl_map));
  return made;
}

}  // namespace

void set_surviving_driver(hid_t access, const std::shared_ptr<H5WriteOutcome>& outcome) {
  static const H5FD_class_t kClass = made_class();
  static const hid_t driver = H5FDregister(&kClass);
  const Access settings{&outcome};
  H5Pset_driver(access, driver, &settings);
}

}  // namespace loci
