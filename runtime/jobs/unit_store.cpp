#include "runtime/jobs/unit_store.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <optional>
#include <system_error>
#include <thread>

#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5_checksums.h"
#include "runtime/io/sha256.h"
#include "runtime/wording.h"

namespace loci {

namespace fs = std::filesystem;

namespace {

std::string difference_below(const Json& before, const Json& now, const std::string& path) {
  const auto shown = [](const Json& value) {
    const std::string text = value.is_discarded() ? "nothing" : canonical_json(value);
    return text.size() <= 80 ? text : text.substr(0, 77) + "...";
  };
  if (before.is_object() && now.is_object()) {
    for (const auto& [key, value] : before.items()) {
      const std::string inner = path.empty() ? key : path + "." + key;
      if (!now.contains(key)) return fmt::format("{}: it was made with {}, now there is none", inner, shown(value));
      if (auto found = difference_below(value, now[key], inner); !found.empty()) return found;
    }
    for (const auto& [key, value] : now.items()) {
      const std::string inner = path.empty() ? key : path + "." + key;
      if (!before.contains(key)) return fmt::format("{}: it was made without, now it is {}", inner, shown(value));
    }
    return "";
  }
  return before == now ? "" : fmt::format("{}: it was made with {}, now it is {}", path, shown(before), shown(now));
}

/// The number in "unit_000012.done"; nothing for other names.
std::optional<int64_t> unit_of(const std::string& name, std::string_view suffix) {
  constexpr std::string_view kPrefix = "unit_";
  if (!name.starts_with(kPrefix) || !name.ends_with(suffix)) return std::nullopt;
  const char* begin = name.data() + kPrefix.size();
  const char* end = name.data() + name.size() - suffix.size();
  int64_t unit = 0;
  const auto result = std::from_chars(begin, end, unit);
  if (begin == end || result.ec != std::errc() || result.ptr != end || unit < 0) return std::nullopt;
  return unit;
}

/// Why a mark does not vouch for its shard; empty if it does.
std::string mark_fault(const fs::path& shard, const fs::path& mark) {
  try {
    const Json json = parse_json_file(mark);
    const int64_t size = json_int(json, "size", mark.string(), 0);
    const std::string hash = json_string(json, "sha256", mark.string());
    std::error_code missing;
    const auto found = fs::file_size(shard, missing);
    if (missing) return fmt::format("{}: the shard is missing", shard.string());
    if (static_cast<int64_t>(found) != size) {
      return fmt::format("{}: the shard has {} bytes, its mark says {}", shard.string(), found, size);
    }
    if (sha256_file(shard) != hash) return fmt::format("{}: the shard's SHA-256 is not its mark's", shard.string());
    return "";
  } catch (const InputError& error) {
    return error.what();
  }
}

/// Whether it is there, at once or soon.
bool appears(const fs::path& path, UnitStore::Patience patience) {
  const auto limit = std::chrono::steady_clock::now() + patience;
  std::error_code ignored;
  while (!fs::exists(path, ignored)) {
    if (std::chrono::steady_clock::now() > limit) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return true;
}

/// A configuration as it is after it went through text, that equal values compare equal.
Json as_stored(const Json& config, const fs::path& output) {
  require<ShapeError>(config.is_object(), "{}: a configuration must be a JSON object", output.string());
  return parse_json(canonical_json(config), "the configuration");
}

constexpr std::string_view kClaims = "claims_";

/// The option that says how many items a job has, and the key beside a configuration that says what that came to.
constexpr const char* kLimit = "limit";
constexpr const char* kItems = "items in all";  // no option has such a name

Json without(Json config, std::initializer_list<const char*> keys) {
  for (const char* key : keys) config.erase(key);
  return config;
}

}  // namespace

std::string first_difference(const Json& before, const Json& now) { return difference_below(before, now, ""); }

void require_same_configuration(const Json& before, const Json& now, const fs::path& found, const fs::path& output) {
  const std::string difference = first_difference(before, now);
  require<ConfigurationMismatch>(
      difference.empty(), "{}: belongs to another configuration ({}); give {} to replace it, or another output than {}",
      found.string(), difference, option("overwrite"), output.string());
}

UnitStore::UnitStore(fs::path output, const Json& config, OnExisting on_existing, std::optional<UnitGrowth> growth)
    : output_(std::move(output)),
      parts_(output_.string() + ".parts"),
      config_(as_stored(config, output_)),
      growth_(std::move(growth)) {
  const AtomicPath writable(output_);
  check_output(on_existing);
  if (complete()) return;
  lock_ = std::make_unique<OutputLock>(parts_ / "lock", output_);
  // Another job may have finished between the first look and the lock.
  check_output(on_existing);
  if (complete()) {
    fs::remove_all(parts_);
    lock_.reset();
    return;
  }
  open_parts(on_existing);
  scan_units();
  take_over_units();
}

UnitStore UnitStore::join(fs::path output, const Json& config, const std::string& launch, std::set<int64_t> done_units,
                          Patience patience) {
  return UnitStore(std::move(output), config, launch, std::move(done_units), patience);
}

UnitStore::UnitStore(fs::path output, const Json& config, const std::string& launch, std::set<int64_t> done_units,
                     Patience patience)
    : output_(std::move(output)), parts_(output_.string() + ".parts"), config_(as_stored(config, output_)) {
  done_ = std::move(done_units);
  const fs::path claims = parts_ / (std::string(kClaims) + launch);
  require<SystemError>(
      appears(claims, patience),
      "{}: the folder that rank 0 made cannot be seen from here ({}); all ranks must write to the same "
      "file system",
      claims.string(), this_process());
  const std::string difference = first_difference(without(parse_json_file(parts_ / "config.json"), {kItems}), config_);
  require<ConfigurationMismatch>(
      difference.empty(),
      "{}: this rank came with another configuration than rank 0 ({}); all need the same options and files",
      output_.string(), difference);
  claims_ = claims;
}

UnitStore::~UnitStore() {
  // What others may still be writing to is theirs; the next launch sweeps it.
  if (!lock_ || complete() || !claims_.empty()) return;
  // A job that has not come to its first unit leaves no files.
  std::error_code ignored;
  if (done_.empty()) fs::remove_all(parts_, ignored);
}

void UnitStore::check_output(OnExisting on_existing) {
  std::error_code ignored;
  if (on_existing == OnExisting::overwrite || !fs::exists(output_, ignored)) return;
  try {
    const H5File file = H5File::open_read(output_);
    if (growth_)
      require_same_configuration(without(read_config(file), {kLimit}), without(config_, {kLimit}), output_, output_);
    else
      require_same_configuration(read_config(file), config_, output_, output_);
    file.verify_all();
    if (growth_) held_ = growth_->count(file);
  } catch (const ConfigurationMismatch&) {
    throw;
  } catch (const InputError& error) {
    throw_error<InputError>("{}; give {} to replace it, or another output", error.what(), option("overwrite"));
  }
  if (growth_) require_no_more(held_, output_.string());
  if (!growth_ || held_ == growth_->items) phase_ = Phase::complete;
}

void UnitStore::require_no_more(int64_t held, const std::string& where) const {
  require<InputError>(held <= growth_->items,
                      "{}: holds {} {} already, more than the {} of this job; give {} {} (or none), or another output, "
                      "or {} to replace it by fewer",
                      where, held, growth_->name, growth_->items, option(kLimit), held, option("overwrite"));
}

/// The full units of an output of fewer items.
void UnitStore::take_over_units() {
  if (held_ == 0) return;
  const H5File output = H5File::open_read(output_);
  for (int64_t unit = 0; unit < held_ / growth_->per_unit; ++unit) {
    if (is_done(unit)) continue;
    commit(unit, [&](H5File& shard) { growth_->take(output, unit, shard); });
  }
}

/// What stands in the parts' config.json.
Json UnitStore::described() const {
  Json described = config_;
  if (growth_) described[kItems] = growth_->items;
  return described;
}

/// Makes parts that belong to a job over another number of items those of this one.
void UnitStore::fit_parts(Json before) {
  const Json now = described();
  if (!growth_ || !before.contains(kItems))
    return require_same_configuration(without(before, {kItems}), config_, parts_, output_);
  require_same_configuration(without(before, {kItems, kLimit}), without(config_, {kLimit}), parts_, output_);
  if (before == now) return;
  const int64_t held = json_int(before, kItems, parts_.string(), 0);
  const int64_t per_unit = growth_->per_unit, units = (growth_->items + per_unit - 1) / per_unit;
  for (const int64_t unit : marked_units())
    if (unit >= units) require_no_more(held, parts_.string());
  // Where the smaller number ends within a unit, that unit is another one now.
  const int64_t smaller = std::min(held, growth_->items);
  if (held != growth_->items && smaller % per_unit != 0) fs::remove(mark_path(smaller / per_unit));
  write_file_atomically(parts_ / "config.json", canonical_json(now) + "\n");
}

void UnitStore::open_parts(OnExisting on_existing) {
  if (on_existing == OnExisting::overwrite) {
    for (const auto& entry : fs::directory_iterator(parts_)) {
      if (entry.path().filename() != "lock") fs::remove_all(entry.path());
    }
  }
  const fs::path config_path = parts_ / "config.json";
  if (!fs::exists(config_path)) {
    for (const auto& entry : fs::directory_iterator(parts_)) {
      require<InputError>(!unit_of(entry.path().filename().string(), ".done"),
                          "{}: is missing although units are there; give {} to do them again", config_path.string(),
                          option("overwrite"));
    }
    write_file_atomically(config_path, canonical_json(described()) + "\n");
    return;
  }
  Json before;
  try {
    before = parse_json_file(config_path);
  } catch (const InputError& error) {
    throw_error<InputError>("{}; the file is damaged, give {} to do the job again", error.what(), option("overwrite"));
  }
  fit_parts(std::move(before));
}

void UnitStore::scan_units() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(parts_)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    const auto unit = unit_of(file.filename().string(), ".done");
    if (!unit) continue;
    const std::string fault = mark_fault(shard_path(*unit), mark_path(*unit));
    if (fault.empty() && file == mark_path(*unit)) {
      done_.insert(*unit);
    } else {
      repaired_.push_back(fmt::format("unit {} is done again: {}", *unit, fault));
      spdlog::warn("{}", repaired_.back());
      fs::remove(file);
    }
  }
  // Shards without a mark are what an interrupted job was writing.
  for (const fs::path& file : files) {
    const auto unit = unit_of(file.filename().string(), ".h5");
    if (file.extension() == ".tmp" || (unit && !done_.contains(*unit))) fs::remove(file);
    // A rank of a dead launch may be writing there still: what it adds is left there, and matters to nobody.
    std::error_code ignored;
    if (file.filename().string().starts_with(kClaims)) fs::remove_all(file, ignored);
  }
}

fs::path UnitStore::shard_path(int64_t unit) const { return parts_ / fmt::format("unit_{:06}.h5", unit); }

fs::path UnitStore::mark_path(int64_t unit) const { return parts_ / fmt::format("unit_{:06}.done", unit); }

void UnitStore::commit(int64_t unit, const std::function<void(H5File& shard)>& write) {
  require<ShapeError>(!complete() && unit >= 0 && !is_done(unit), "{}: unit {} cannot be written {}", output_.string(),
                      unit, complete() ? "to a finished output" : "twice");
  const fs::path shard = shard_path(unit), mark = mark_path(unit);
  const fs::path& folder = claims_.empty() ? parts_ : claims_;
  write_hdf5_atomically(folder / shard.filename(), write);
  const Json vouched = {{"size", fs::file_size(folder / shard.filename())},
                        {"sha256", sha256_file(folder / shard.filename())}};
  move_into_place(folder / shard.filename(), shard);
  write_file_atomically(folder / mark.filename(), vouched.dump() + "\n");
  move_into_place(folder / mark.filename(), mark);
  done_.insert(unit);
}

void UnitStore::move_into_place(const fs::path& from, const fs::path& to) const {
  if (from == to) return;
  if (::rename(from.c_str(), to.c_str()) != 0) throw_write_error(to.string(), errno);
  sync_folder(parts_);
}

void UnitStore::share(const std::string& launch) {
  require<ShapeError>(!complete() && lock_ && claims_.empty(), "{}: cannot be shared", output_.string());
  const fs::path claims = parts_ / (std::string(kClaims) + launch);
  std::error_code error;
  const bool made = fs::create_directory(claims, error);
  if (!made) throw_write_error(claims.string(), error ? error.value() : EEXIST);
  claims_ = claims;
}

bool UnitStore::claim(int64_t unit) {
  if (is_done(unit) || claimed_.contains(unit)) return false;
  if (claims_.empty()) return true;
  const fs::path path = claims_ / fmt::format("unit_{:06}.claim", unit);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0 && errno == EEXIST) {
    list_claims();
    return false;
  }
  if (fd < 0) throw_write_error(path.string(), errno);
  ::close(fd);
  return true;
}

void UnitStore::list_claims() {
  for (const auto& entry : fs::directory_iterator(claims_))
    if (const auto unit = unit_of(entry.path().filename().string(), ".claim")) claimed_.insert(*unit);
}

void UnitStore::ask_to_stop() {
  if (claims_.empty()) return;
  const fs::path path = claims_ / "stop";
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) throw_write_error(path.string(), errno);
  ::close(fd);
}

bool UnitStore::asked_to_stop() const {
  std::error_code ignored;
  return !claims_.empty() && fs::exists(claims_ / "stop", ignored);
}

std::set<int64_t> UnitStore::marked_units() const {
  std::set<int64_t> units;
  for (const auto& entry : fs::directory_iterator(parts_))
    if (const auto unit = unit_of(entry.path().filename().string(), ".done")) units.insert(*unit);
  return units;
}

void UnitStore::learn(const std::set<int64_t>& committed, Patience patience) {
  for (const int64_t unit : committed) {
    if (is_done(unit)) continue;
    require<SystemError>(
        appears(mark_path(unit), patience) && appears(shard_path(unit), patience),
        "{}: unit {} was done, but its files are not there; run the command again, which does it again",
        parts_.string(), unit);
    done_.insert(unit);
  }
}

void UnitStore::adopt(const std::set<int64_t>& committed, Patience patience) {
  learn(committed, patience);
  std::error_code ignored;
  fs::remove_all(claims_, ignored);
  claims_.clear();
  claimed_.clear();
}

void UnitStore::discard(int64_t unit) {
  require<ShapeError>(!complete() && is_done(unit), "{}: unit {} is not done", output_.string(), unit);
  // The mark first: a shard without one is swept away when the job is continued.
  fs::remove(mark_path(unit));
  fs::remove(shard_path(unit));
  done_.erase(unit);
}

H5File UnitStore::open_unit(int64_t unit) const {
  require<ShapeError>(is_done(unit), "{}: unit {} is not done", output_.string(), unit);
  const std::string fault = mark_fault(shard_path(unit), mark_path(unit));
  require<SystemError>(fault.empty(), "{}; run the command again, which does this unit again", fault);
  return H5File::open_unverified(shard_path(unit));
}

std::optional<H5File> UnitStore::open_if_whole(int64_t unit) const {
  std::error_code ignored;
  if (!fs::exists(mark_path(unit), ignored) || !mark_fault(shard_path(unit), mark_path(unit)).empty())
    return std::nullopt;
  return H5File::open_unverified(shard_path(unit));
}

UnitStore::GrowingOutput::GrowingOutput(const fs::path& output, const fs::path& parts)
    : path(output, parts / "output.h5.tmp"), file(H5File::create(path.temporary())) {}

H5File& UnitStore::output_file() {
  require<ShapeError>(!complete() && lock_, "{}: the output is written by the rank that opened the store, once",
                      output_.string());
  if (!growing_) growing_ = std::make_unique<GrowingOutput>(output_, parts_);
  return growing_->file;
}

void UnitStore::finish(const std::function<void(H5File& output, const OpenUnit& open_unit)>& merge) {
  H5File& file = output_file();
  try {
    merge(file, [this](int64_t unit) { return open_unit(unit); });
    write_attribute(file, "/", "config", canonical_json(config_));
    seal_result(file);
    file.close();
    growing_->path.commit();
  } catch (...) {
    growing_.reset();
    throw;
  }
  growing_.reset();
  phase_ = Phase::complete;
  std::error_code error;
  fs::remove_all(parts_, error);
  if (error) spdlog::warn("{}: the finished work folder cannot be removed: {}", parts_.string(), error.message());
  lock_.reset();
}

Json read_config(const H5File& file) {
  const auto where = fmt::format("{}: attribute \"config\" of /", file.path().string());
  const Json config = parse_json(read_string_attribute(file, "/", "config"), where);
  require<InputError>(config.is_object(), "{}: is not a JSON object", where);
  return config;
}

}  // namespace loci
