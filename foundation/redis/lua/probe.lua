#!lua flags=allow-cross-slot-keys
-- Does the server take a script over keys of several slots that are not declared? Items: key. 1 or 0: it exists.
local answer = {}
for place = 2 + tonumber(ARGV[1]), #ARGV do
  answer[#answer + 1] = redis.pcall('EXISTS', ARGV[place])
end
return answer
