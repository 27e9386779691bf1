# Run at every build: writes loci_build_info.h with the version and the commit, only if it changed.
#   cmake -DSOURCE_DIR= -DOUTPUT= -DLOCI_VERSION= -P LociBuildInfo.cmake
set(LOCI_GIT_COMMIT unknown)
find_program(GIT git)
if(GIT)
  execute_process(
    COMMAND ${GIT} -C ${SOURCE_DIR} describe --always --abbrev=40 --dirty --exclude *
    OUTPUT_VARIABLE described RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT failed)
    set(LOCI_GIT_COMMIT ${described})
  endif()
endif()
configure_file(${SOURCE_DIR}/runtime/jobs/build_info.h.in ${OUTPUT} @ONLY)
