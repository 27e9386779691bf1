# Build options, warnings and sanitizers. Everything in the project links loci_options.
option(LOCI_BUILD_TESTS "Build the tests" ON)
option(LOCI_BUILD_BENCH "Build the benchmarks" ON)
option(LOCI_BUILD_FUZZ "Build the libFuzzer targets (needs clang) beside the tests" OFF)
set(LOCI_SANITIZE "" CACHE STRING "Sanitizers to build with: empty, address, thread")
set_property(CACHE LOCI_SANITIZE PROPERTY STRINGS "" address thread)

# loci_auto_option(LOCI_X "what it builds" "when AUTO does"): a cache variable that is AUTO, ON or OFF.
function(loci_auto_option name what condition)
  set(${name} AUTO CACHE STRING "${what}: AUTO (${condition}), ON or OFF")
  set_property(CACHE ${name} PROPERTY STRINGS AUTO ON OFF)
  if(NOT ${name} MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "${name}=${${name}} is unknown; use AUTO, ON or OFF")
  endif()
endfunction()

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(LOCI_CCACHE ccache)
if(LOCI_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # What ccache must overlook and GCC must tell it so that sources with precompiled headers are kept, too.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${LOCI_CCACHE})
  add_compile_options($<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-fpch-preprocess>)
endif()

# With CMAKE_UNITY_BUILD, as in the presets, eight sources of a library are compiled as one: a third of the time. Names in
# the anonymous namespaces of one folder are therefore told apart, except in files with SKIP_UNITY_BUILD_INCLUSION.
if(CMAKE_UNITY_BUILD)
  add_compile_options($<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-Wno-subobject-linkage>)
endif()

# GCC 12 warns wrongly of strings in optimised builds (GCC bug 105651), in more ways where headers are precompiled.
# AddressSanitizer finds what these warnings are for.
add_library(loci_options INTERFACE)
add_library(loci::options ALIAS loci_options)
target_compile_options(loci_options INTERFACE $<BUILD_INTERFACE:$<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Wshadow;-Wconversion;-Wno-sign-conversion;$<$<CXX_COMPILER_ID:GNU>:-Wno-restrict;-Wno-array-bounds;-Wno-stringop-overflow;-Wno-stringop-overread>;-Werror>>)
target_include_directories(loci_options INTERFACE $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}>)
target_compile_features(loci_options INTERFACE cxx_std_20)

if(LOCI_SANITIZE STREQUAL "address")
  # Without the checks of every pointer for null (AddressSanitizer stops there anyway) and alignment (the folders that
  # reinterpret bytes have it, see loci_check_alignment): they cost a third of the build.
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
    -fno-sanitize=null,vptr,object-size,nonnull-attribute,returns-nonnull-attribute,pointer-overflow,alignment)
  add_link_options(-fsanitize=address,undefined)
  add_compile_definitions(LOCI_SANITIZED)
elseif(LOCI_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
  add_link_options(-fsanitize=thread)
  add_compile_definitions(LOCI_SANITIZED LOCI_TSAN)
elseif(LOCI_SANITIZE)
  message(FATAL_ERROR "LOCI_SANITIZE=${LOCI_SANITIZE} is unknown; use address or thread")
endif()

# GCC 12 warns wrongly of std::optional where a sanitizer's checks stand between its parts.
if(LOCI_SANITIZE)
  add_compile_options($<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
endif()

# Adds the alignment checks to a target of the AddressSanitizer build.
function(loci_check_alignment target)
  if(LOCI_SANITIZE STREQUAL "address")
    target_compile_options(${target} PRIVATE -fsanitize=alignment)
  endif()
endfunction()

# Headers that most sources of the libraries include, compiled once for all of them. These are the libraries that read files:
# the fuzzer sees which of their branches an input reaches.
function(loci_precompile target)
  if(LOCI_BUILD_FUZZ)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(target STREQUAL "loci_runtime")
    target_precompile_headers(${target} PRIVATE <fmt/format.h> <nlohmann/json.hpp> <algorithm> <filesystem> <functional> <map>
      <memory> <optional> <set> <span> <string> <vector>)
  else()
    target_precompile_headers(${target} REUSE_FROM loci_runtime)
  endif()
endfunction()
