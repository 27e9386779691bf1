# LOCI_CUDA=AUTO|ON|OFF decides whether the CUDA backend is compiled. AUTO: where there is a CUDA compiler. The
# architectures are stated, not probed, so that a login node builds what the compute nodes run; 120 includes its PTX.
loci_auto_option(LOCI_CUDA "Build the CUDA backend" "where nvcc is found")

set(LOCI_WITH_CUDA OFF)
if(NOT LOCI_CUDA STREQUAL "OFF")
  if(NOT CMAKE_CUDA_COMPILER)
    find_program(LOCI_NVCC nvcc HINTS ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
    if(LOCI_NVCC)
      set(CMAKE_CUDA_COMPILER ${LOCI_NVCC})
    endif()
  endif()
  if(CMAKE_CUDA_COMPILER)
    set(LOCI_WITH_CUDA ON)
  elseif(LOCI_CUDA STREQUAL "ON")
    message(FATAL_ERROR "LOCI_CUDA=ON, but no nvcc was found; install the CUDA toolkit or set CUDA_HOME")
  endif()
endif()

if(LOCI_WITH_CUDA)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100-real 120)
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  # CMake 3.25 does not know that nvcc has C++20.
  foreach(dialect STANDARD EXTENSION)
    set(CMAKE_CUDA20_${dialect}_COMPILE_OPTION -std=c++20)
  endforeach()
  # One thread per architecture. fmt 9's own feature tests misjudge nvcc: it has constexpr, but consteval format strings
  # stop it.
  add_compile_options(
    "$<$<COMPILE_LANGUAGE:CUDA>:--threads=2;--Werror=all-warnings;--diag-suppress=554;-Xcompiler=-Wall,-Wextra>")
  add_compile_definitions(
    $<$<COMPILE_LANGUAGE:CUDA>:FMT_CONSTEVAL=> $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
endif()
message(STATUS "CUDA backend: ${LOCI_WITH_CUDA}")
