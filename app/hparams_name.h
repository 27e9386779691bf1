#pragma once

#include <string>

namespace loci::app {

/// The file of hyper-parameters that --hparams means for a method. A text with a slash or the ending .json is the file
/// itself; another one is the name of published hyper-parameters, such as gpt2-xl: hparams/METHOD/NAME.json in the
/// folder $LOCI_DATA, the installation's, or that of the sources. Throws InputError for a name that is not there, with
/// those that are.
std::string hparams_file(const std::string& given, const std::string& method);

/// The same where several methods are compared: a folder holds METHOD.json for each, and a file is refused.
std::string hparams_file_of_several(const std::string& given, const std::string& method);

}  // namespace loci::app
