#include "tests/fuzz/headers.h"

template class nlohmann::basic_json<>;
