# LOCI_NCCL=AUTO|ON|OFF decides whether GPUs of several ranks talk to each other directly. AUTO: in builds with CUDA where
# NCCL is found: beside the CUDA toolkit or where Debian's multiarch packages put it.
loci_auto_option(LOCI_NCCL "Build with NCCL" "with CUDA, where it is found")

set(LOCI_WITH_NCCL OFF)
if(LOCI_WITH_CUDA AND NOT LOCI_NCCL STREQUAL "OFF")
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ENV NCCL_HOME ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
  find_library(NCCL_LIBRARY nccl HINTS ENV NCCL_HOME ${CUDAToolkit_LIBRARY_DIR} PATH_SUFFIXES lib lib64)
  if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
    set(LOCI_WITH_NCCL ON)
  endif()
endif()
if(LOCI_NCCL STREQUAL "ON" AND NOT LOCI_WITH_NCCL)
  message(FATAL_ERROR "LOCI_NCCL=ON, but CUDA or NCCL is missing: LOCI_CUDA is ${LOCI_WITH_CUDA}; set NCCL_HOME to the folder with include/nccl.h")
endif()
message(STATUS "NCCL: ${LOCI_WITH_NCCL}")
