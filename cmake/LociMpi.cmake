# LOCI_MPI=AUTO|ON|OFF decides whether `mpirun` and `srun` can start several ranks. AUTO: where there is an MPI.
loci_auto_option(LOCI_MPI "Build with MPI" "where it is found")

set(LOCI_WITH_MPI OFF)
if(NOT LOCI_MPI STREQUAL "OFF")
  # The C interface; MPI has none for C++ any more.
  find_package(MPI COMPONENTS C)
  if(MPI_C_FOUND)
    set(LOCI_WITH_MPI ON)
  elseif(LOCI_MPI STREQUAL "ON")
    message(FATAL_ERROR "LOCI_MPI=ON, but no MPI was found; install libopenmpi-dev or set MPI_HOME")
  endif()
endif()
message(STATUS "MPI: ${LOCI_WITH_MPI}")
