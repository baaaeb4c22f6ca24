#define POCKETVLM_ISA neoni8mm
#include "coded/coded_kernel.h"
#include "coded/encode_kernel.h"
