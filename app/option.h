#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "runtime/error.h"
#include "runtime/json_fwd.h"

namespace loci::app {

/// A mistake on the command line, which is the same on all ranks: one of them says it.
class UsageError : public InputError {
 public:
  using InputError::InputError;
};

/// What an option is to the result of a job.
enum class Role {
  setting,     ///< its value stands in the configuration that is stored with the result and identifies it
  by_content,  ///< the command puts into the configuration what the value amounts to
  input,       ///< names what is read; the command puts a hash of the contents into the configuration
  output,      ///< names what is written
  no_effect,   ///< changes how the job runs, not what it finds
};

/// What a text value names, for completion and for checks of files.
enum class Names { nothing, file, hdf5_file, folder };

/// The headings of help.
enum class Group { input, output, method, machine, general };

/// An option of a command, or a positional argument: the one description from which command lines are read and help,
/// manual pages, completion and stored configurations are made.
struct Option {
  using Value =
      std::variant<bool*, int*, uint32_t*, int64_t*, uint64_t*, double*, std::string*, std::vector<std::string>*>;

  std::string name;       ///< without dashes
  Value value;            ///< where it goes; what is there at first is the default. A bool is a flag
  std::string type = "";  ///< what help calls the value: "N", "FILE.json"; empty for flags and where there are choices
  std::string help = "";  ///< what it does
  Role role = Role::setting;
  Names names = Names::nothing;
  std::optional<Group> group = {};  ///< else the one that fits the role
  bool required = false;
  bool positional = false;        ///< given without its name; configurations give it by name
  bool hidden = false;            ///< accepted but not shown: scripts give the common options to every command
  bool commas = false;            ///< a list of texts may be written with commas, too
  bool is_configuration = false;  ///< names a JSON file that stands for options
  std::string alias = "";         ///< another name, which help does not list
  char letter = 0;                ///< 'q' for -q
  std::vector<std::string> choices = {};
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;         ///< `min` itself is not allowed
  bool not_empty = false;         ///< of a text: as it would be from a variable that is not set
  std::string default_text = "";  ///< says what holds where it is not given and the value at first does not tell
  std::string environment = "";   ///< a variable that gives the value where nothing else does
  std::string needs = "";         ///< the name of another option
  std::vector<std::string> excludes = {};  ///< the names of others

  // Filled by Command:
  std::string shown_default = "";  ///< as help shows it
  bool given = false;

  bool is_flag() const { return std::holds_alternative<bool*>(value); }
  bool is_list() const { return std::holds_alternative<std::vector<std::string>*>(value); }
  Group heading() const;
  /// "--limit", "MODEL".
  std::string flag() const;
  /// "N", "none|rome"; empty for flags.
  std::string value_name() const;

  /// Takes a value. `where` begins the sentence of the UsageError for one that does not fit: "--limit many".
  void set(const std::string& text, const std::string& where);
  /// Of a text or a list of them.
  std::vector<std::string> texts() const;
  /// Nothing where there is neither a value nor a default.
  std::optional<Json> json() const;
};

}  // namespace loci::app
