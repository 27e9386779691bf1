#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <filesystem>

#include "app/common.h"
#include "app/export/comparison.h"
#include "app/export/cov.h"
#include "app/export/eval.h"
#include "app/export/trace.h"
#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5.h"
#include "runtime/io/hdf5_probe.h"
#include "runtime/wording.h"

namespace loci::app {
namespace {

struct ExportCommand {
  std::string path;
  std::string format;  ///< empty: the published code's
  std::string folder;
  std::string device = "cpu";
  bool json = false;
};

/// What a result file of each kind (attribute `kind`) is exported by: returns how many files were written.
struct Exporter {
  std::string_view kind;
  std::string_view published_format;
  int64_t (*write)(const H5File& file, const std::string& format, const std::filesystem::path& folder);
};
constexpr Exporter kExporters[] = {
    {"comparison", "markdown", export_comparison},
    {"eval", "cases", export_eval},
    {"second_moments", "npz", export_second_moments},
    {"trace", "npz", export_traces},
};

const Exporter& exporter_of(const H5File& file) {
  const std::string path = file.path().string();
  require<InputError>(has_attribute(file, "/", "kind"),
                      "{}: is not a result file of loci: the attribute \"kind\" is missing", path);
  const std::string kind = read_string_attribute(file, "/", "kind");
  for (const Exporter& exporter : kExporters)
    if (exporter.kind == kind) return exporter;
  throw_error<InputError>("{}: attribute \"kind\": there is no export for a result of kind \"{}\"", path, kind);
}

void run(const ExportCommand& command) {
  probe_hdf5(command.path);
  const H5File file = H5File::open_read(command.path);
  const Exporter& exporter = exporter_of(file);
  make_folder(command.folder);
  const std::string format = command.format.empty() ? std::string(exporter.published_format) : command.format;
  const int64_t files = exporter.write(file, format, command.folder);
  if (command.json)
    print_json({{"files", files}, {"output", command.folder}});
  else
    spdlog::info("export: {} in {}", count(files, "file"), command.folder);
}

}  // namespace

void add_export(Commands& commands) {
  auto options = std::make_shared<ExportCommand>();
  Command& command = commands.add("export", "result files in the layouts of the published code, or as CSV");
  command.example = "loci export traces.h5 --format csv --output tables";
  command.page = "docs/file_formats.md";
  command.add({.name = "file",
               .value = &options->path,
               .type = "FILE.h5",
               .help = "result file (HDF5)",
               .role = Role::input,
               .names = Names::hdf5_file,
               .required = true,
               .positional = true});
  command.add({.name = "output",
               .value = &options->folder,
               .type = "DIR",
               .help = "folder to write to",
               .role = Role::output,
               .names = Names::folder,
               .required = true});
  command.add({.name = "format",
               .value = &options->format,
               .help =
                   "npz (traces, second moments), cases (evaluations), csv (traces, evaluations, comparisons), markdown "
                   "or latex (evaluations, comparisons: a table for a paper)",
               .group = Group::output,
               .choices = {"npz", "cases", "csv", "markdown", "latex"},
               .default_text = "that of the published code; of a comparison markdown"});
  add_json_option(command, options->json);
  // For scripts that give it to every command.
  command.add({.name = "device", .value = &options->device, .role = Role::no_effect, .hidden = true});
  command.run = [options] { run(*options); };
}

}  // namespace loci::app
