# Install rules and the exported package: find_package(loci) gives loci::loci.
